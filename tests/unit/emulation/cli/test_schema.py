import json

import yaml

from qemu_configs.bedfile import find, stock_names
from tests.support.command import cxlbed


def test_the_printed_schema_is_json_and_covers_every_stock_topology():
    schema = json.loads(cxlbed("schema").stdout)
    for stock in stock_names():
        assert set(yaml.safe_load(find(stock).read_text())) <= set(schema["properties"])
