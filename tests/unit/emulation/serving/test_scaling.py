"""Other models, GPUs and ways of RDMA: files, and what they make of the fitted costs."""

from dataclasses import replace

import jsonschema
import pytest
import yaml

from emulation.errors import InputError
from emulation.schemas import SCHEMAS
from emulation.serving.cluster import simulate
from emulation.serving.hardware_files import load_gpu, load_model, load_rdma
from emulation.serving.scaling import scaled_costs, server_of, unclassified_costs, with_rdma
from emulation.serving.shipped import DATA_FOLDER, shipped_names
from emulation.serving.spec import GB, ClusterSpec, EngineCosts, GpuSpec, ModelShape, RdmaWay, ServerSpec
from emulation.serving.workload import ClosedLoop
from emulation.timing.bibliography import citations, works

LOADERS = {"model": load_model, "gpu": load_gpu, "rdma": load_rdma}
GLM = (DATA_FOLDER / "models" / "glm-5.yaml").read_text()


def figures(tier, **spec):
    workload = ClosedLoop(64, 16, 32768, 128)
    return simulate(ClusterSpec(tier, **spec), workload).recorder.summary()


def on(gpu="h20", model="deepseek-v3.2", rdma="sac"):
    """Fields of a cluster with such hardware."""
    gpu, model, way = load_gpu(gpu), load_model(model), load_rdma(rdma)
    costs = with_rdma(scaled_costs(gpu, model), way)
    return {"gpu": gpu, "model": model, "rdma": way, "server": server_of(gpu, model), "costs": costs}


def test_the_defaults_are_the_files_of_the_paper_s_testbed_and_change_no_cost():
    assert load_model("deepseek-v3.2") == ModelShape()
    assert load_gpu("h20") == GpuSpec()
    assert load_rdma("sac") == RdmaWay()
    assert with_rdma(scaled_costs(GpuSpec(), ModelShape()), RdmaWay()) == EngineCosts()
    assert server_of(GpuSpec(), ModelShape()) == ServerSpec()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in LOADERS for name in shipped_names(kind)])
def test_every_shipped_file_can_be_had_by_its_name_in_any_case_and_names_its_sources(kind, name):
    assert LOADERS[kind](name.upper()) == LOADERS[kind](name)
    folder = {"model": "models", "gpu": "gpus", "rdma": "rdma"}[kind]
    text = (DATA_FOLDER / folder / f"{name}.yaml").read_text()
    for one in citations(text):
        assert one.figure in works()[one.arxiv].figures


def test_no_cost_is_left_out_of_the_scaling():
    assert unclassified_costs() == set()


def test_twice_the_compute_halves_prefill_and_twice_the_bandwidth_halves_the_step():
    gpu = GpuSpec()
    faster = scaled_costs(replace(gpu, tflops=2 * gpu.tflops), ModelShape())
    wider = scaled_costs(replace(gpu, hbm_bytes_per_ns=2 * gpu.hbm_bytes_per_ns), ModelShape())
    fitted = EngineCosts()
    assert (faster.prefill_token_ns, faster.step_base_ns) == (fitted.prefill_token_ns / 2, fitted.step_base_ns)
    assert (wider.prefill_token_ns, wider.step_base_ns) == (fitted.prefill_token_ns, fitted.step_base_ns / 2)
    assert wider.admission_ns == fitted.admission_ns  # the host's


def test_a_faster_gpu_serves_more_and_a_model_of_more_layers_less():
    base = figures("cxl", **on())
    assert figures("cxl", **on(gpu="h200")).output_throughput > base.output_throughput
    assert figures("cxl", **on(model="glm-5")).output_throughput < base.output_throughput


def test_a_model_that_leaves_no_room_for_kv_is_refused_with_the_sum():
    with pytest.raises(InputError, match=r"server: gpu H100 has hbm_bytes=80 GB, of which Huge's weights take 84 GB"):
        server_of(load_gpu("h100"), replace(ModelShape(), name="Huge", weight_bits=8))
    assert server_of(load_gpu("h100"), ModelShape(), 5 * GB).hbm_kv_bytes == 5 * GB


def test_wider_and_more_network_cards_never_slow_a_rival_down():
    one, many = load_rdma("mooncake"), load_rdma("mooncake-4x200")
    assert (
        figures("rdma", **on(rdma="mooncake")).ttft_ms.mean < figures("rdma", **on(rdma="mooncake-4x200")).ttft_ms.mean
    )
    assert one.nics * one.nic_bytes_per_ns == 190
    assert many.nics * many.nic_bytes_per_ns == 87
    assert figures("rdma", **on(rdma="mooncake")).ttft_ms.mean < figures("rdma", **on()).ttft_ms.mean


def test_rows_over_rdma_prefetch_nothing_and_cost_an_operation_each():
    spec = ClusterSpec("rdma", **on(rdma="sac-rows"))
    assert (spec.prefetch_profile, spec.fetch_profile.op_ns) == (None, 500)
    half = replace(spec, rdma=replace(spec.rdma, nics=4))
    assert (half.fetch_profile.op_ns, half.fetch_profile.adapter.read_bytes_per_ns) == (1000, 6.25)
    outcome = simulate(spec, ClosedLoop(16, 16, 32768, 64))
    assert outcome.bytes_by_link()["server0.nic0.read"] > 0
    slow, fast = figures("rdma", **on(rdma="sac-rows")), figures("rdma", **on(rdma="beluga-rows"))
    assert figures("cxl").tpot_ms.mean < fast.tpot_ms.mean < slow.tpot_ms.mean


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value: 78,", "value: 0,", "num_layers=0 must be a whole number of at least 1, at most 10000000"),
        ("value: 744.0e+9,", "value: .nan,", "total_parameters=nan must be a number from 1e+06 to 1e+15"),
        ("value: 4,", "value: 0.5,", "weight_bits=0.5 must be a number from 1 to 64"),
        ("top_k:", "topk:", "topk={'value': 2048"),
        ("name: GLM-5", "name: 5", "name=5 must be text"),
        ("row_bytes: {value: 1152, source:", "row_bytes: {value: 1152, sauce:", "must be {value: ..., source: ...}"),
    ],
)
def test_a_malformed_model_file_is_one_error_with_field_value_and_rule(tmp_path, old, new, said):
    assert old in GLM
    path = tmp_path / "bad.yaml"
    path.write_text(GLM.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    assert str(caught.value).startswith(f"model file {path}: ")
    assert said in str(caught.value)


def test_an_unknown_name_lists_the_known_ones_and_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"gpu: name='h300' is unknown; take one of b200, h100, h20, h200"):
        load_gpu("h300")
    with pytest.raises(InputError, match=r"model file nowhere\.yaml: No such file"):
        load_model("nowhere.yaml")
    with pytest.raises(InputError, match=r"rdma: name='x+"):
        load_rdma("x" * 5000)


def test_a_file_of_one_s_own_is_taken(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GLM.replace("name: GLM-5", "name: Mine"))
    assert load_model(str(path)) == replace(load_model("glm-5"), name="Mine")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in LOADERS for name in shipped_names(kind)])
def test_every_shipped_file_is_what_its_schema_says(kind, name):
    folder = {"model": "models", "gpu": "gpus", "rdma": "rdma"}[kind]
    tree = yaml.safe_load((DATA_FOLDER / folder / f"{name}.yaml").read_text())
    jsonschema.validate(tree, SCHEMAS[kind]())
    with pytest.raises(jsonschema.ValidationError, match="unexpected"):
        jsonschema.validate({**tree, "colour": "red"}, SCHEMAS[kind]())
