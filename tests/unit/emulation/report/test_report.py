"""Numbers, tables, pictures and pages."""

import pytest

from emulation.errors import InputError
from emulation.report.page import PageTable, Section, write_page
from emulation.report.plots import Axes, Series, draw_bars, draw_lines
from emulation.report.tables import cell_text, make_table, print_table
from emulation.report.wording import significant


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.23456, "1.23"),
        (1.0, "1.00"),
        (28.0, "28.0"),
        (0.05, "0.0500"),
        (83.49, "83.5"),
        (999.6, "1,000"),
        (123456.0, "123,000"),
        (2e9, "2e+09"),
    ],
)
def test_numbers_keep_three_digits_that_mean_something(value, text):
    assert significant(value) == text


def test_cells_are_worded_by_kind():
    assert [cell_text(cell) for cell in (None, 12345, 0.5, "dram")] == ["-", "12,345", "0.500", "dram"]


def test_a_wide_table_is_not_cut_where_there_is_no_terminal(capsys):
    print_table(make_table("t", [f"column {i}" for i in range(12)], [[f"word{i}" for i in range(12)]]))
    assert "word11" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_same_figures_give_the_same_picture(tmp_path, ending):
    def draw(name):
        path = tmp_path / f"{name}{ending}"
        series = [
            Series("dram", [1, 2, 4], [1, 2, 3], [0.5, 1, 2], [2, 3, 4]),
            Series("paper", [1, 4], [1, 3], dots=True),
        ]
        draw_lines(path, Axes("title", "entries", "us", log_x=True, log_y=True), series, {"n*": 3})
        return path.read_bytes()

    assert draw("a") == draw("b")


def test_bars_are_drawn(tmp_path):
    draw_bars(tmp_path / "b.svg", Axes("t", "x", "y"), ["a", "b"], {"dram": [1, 2], "cxl": [3, 4]})
    assert "<svg" in (tmp_path / "b.svg").read_text()


def test_a_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.png"):
        draw_bars(tmp_path / "b.gif", Axes("t", "x", "y"), [], {})


def test_a_page_holds_its_pictures_and_escapes_what_it_is_told(tmp_path):
    draw_bars(tmp_path / "b.svg", Axes("t", "x", "y"), ["a"], {"dram": [1]})
    sections = [Section("<b>", ["a & b"], [PageTable(["tier", "us"], [["<i>", 1.25]])], [tmp_path / "b.svg"])]
    write_page(tmp_path / "out" / "page.html", "t < u", sections)
    text = (tmp_path / "out" / "page.html").read_text()
    assert "<h2>&lt;b&gt;</h2>" in text
    assert "<p>a &amp; b</p>" in text
    assert '<td>&lt;i&gt;</td><td class="n">1.25</td>' in text
    assert "data:image/svg+xml;base64," in text
    assert not list((tmp_path / "out").glob(".*.new"))
