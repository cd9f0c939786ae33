"""Values of an ONNX file that lie in another file: beside it they are read, anywhere else they are refused before they are."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edcompress.core.errors import InputError
from edcompress.core.recipe.deployment import Benchmark
from edcompress.deploy.latency.benchmark import measure
from edcompress.deploy.runtime.parity import run_onnx
from edcompress.deploy.runtime.sessions import open_session


def external(location: str, name: str = "bias") -> TensorProto:
    """Two floats that are read from a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="8")
    return tensor


def saved(path: Path, tensor: TensorProto, *, within: str = "initializer") -> Path:
    """A model whose logits are its images [N, 2] plus the tensor."""
    images, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("images", "logits"))
    nodes = [helper.make_node("Add", ["images", "bias"], ["logits"])]
    constant = helper.make_node("Constant", [], ["bias"], value=tensor)
    if within == "subgraph":
        inner = helper.make_graph([constant], "g", [], [helper.make_tensor_value_info("bias", TensorProto.FLOAT, [2])])
        yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
        nodes = [yes, helper.make_node("If", ["yes"], ["bias"], then_branch=inner, else_branch=inner), *nodes]
    elif within == "attribute":
        nodes = [constant, *nodes]
    graph = helper.make_graph(nodes, "g", [images], [logits], [tensor] if within in ("initializer", "function") else [])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    if within == "function":
        del model.graph.initializer[:]
        domain = [helper.make_opsetid("", 18)]
        model.functions.append(helper.make_function("mine", "f", [], ["bias"], [constant], domain))
        model.graph.node.insert(0, helper.make_node("f", [], ["bias"], domain="mine"))
        model.opset_import.append(helper.make_opsetid("mine", 1))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.bin"
    path.write_bytes(np.array([3, 4], np.float32).tobytes())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models" / "deep").mkdir(parents=True)
    return tmp_path / "models"


@pytest.mark.parametrize("within", ["initializer", "attribute", "subgraph", "function"])
def test_values_from_elsewhere_are_refused_wherever_the_tensor_stands(folder: Path, secret: Path, within: str) -> None:
    path = saved(folder / "m.onnx", external("../secret.bin"), within=within)
    with pytest.raises(
        InputError, match=r"m\.onnx: tensor 'bias' is read from '\.\./secret\.bin', which is not a file in"
    ):
        open_session(path)
    assert secret.exists()


@pytest.mark.parametrize(
    "location",
    [
        "{secret}",
        "deep/../../secret.bin",
        "*/_ORT_MEM_ADDR_/*",
        "",
        ".",
        "..",
        "..\\secret.bin",
        "link",
        "linked/s",
        "gone",
    ],
)
def test_only_ordinary_files_beside_the_model_are_read(folder: Path, secret: Path, location: str) -> None:
    (folder / "link").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    (secret.parent / "s").write_bytes(secret.read_bytes())
    path = saved(folder / "m.onnx", external(location.format(secret=secret)))
    with pytest.raises(InputError, match=r"m\.onnx: tensor 'bias' is read from "):
        open_session(path)


@pytest.mark.parametrize("location", ["m.onnx.data", "deep/weights.bin", "./m.onnx.data"])
def test_values_beside_the_model_are_read(folder: Path, secret: Path, location: str) -> None:
    import torch

    (folder / location).write_bytes(secret.read_bytes())
    path = saved(folder / "m.onnx", external(location))
    assert run_onnx(path, torch.zeros(1, 2)).tolist() == [[3, 4]]


def test_no_verb_opens_a_model_that_reads_from_elsewhere(cli, folder: Path, secret: Path) -> None:
    path = saved(folder / "m.onnx", external(str(secret)))
    for command in (("evaluate", path, "--recipe", "digits"), ("benchmark", path)):
        ended = cli(*command)
        assert (ended.code, f"tensor 'bias' is read from '{secret}'" in ended.err) == (2, True), ended
    (folder.parent / "link.onnx").symlink_to(path)  # what is measured is what it leads to
    with pytest.raises(InputError, match="is read from"):
        measure({"a": folder.parent / "link.onnx"}, Benchmark(runs=20))


def test_a_file_that_is_not_an_onnx_model_is_named(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match=r"m\.onnx: onnxruntime cannot load it as an ONNX model"):
        open_session(folder / "m.onnx")
    with (folder / "m.onnx").open("wb") as file:
        file.truncate(3 << 30)  # a hole: it takes no room
    with pytest.raises(InputError, match="an ONNX file has less than 2 GiB"):
        open_session(folder / "m.onnx")
