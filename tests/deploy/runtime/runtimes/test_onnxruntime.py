"""onnxruntime behind the protocol of runtimes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from torch import Tensor

from edcompress.core.errors import InputError
from edcompress.deploy.runtime.runtimes.onnxruntime import RUNTIME, _options
from edcompress.deploy.runtime.sessions import CPU, ModelInput


def test_a_session_says_what_the_file_takes_and_holds(onnx_file: Path) -> None:
    opened = RUNTIME.open(onnx_file, 1, CPU, None)
    assert opened.inputs == (ModelInput("images", ("batch", 3, 8, 8), "tensor(float)"),)
    assert (opened.runtime, opened.provider) == ("onnxruntime", CPU)
    assert opened.metadata["who"] == "me"
    assert RUNTIME.version == onnxruntime.__version__


def test_a_bound_call_is_a_run_on_the_same_feed(onnx_file: Path, images: Tensor) -> None:
    opened = RUNTIME.open(onnx_file, 1, CPU, None)
    feed = {"images": images.numpy()}
    (logits,) = opened.run(feed)
    assert logits.shape == (8, 4)
    assert np.array_equal(opened.bound(feed)(), [logits])


def test_a_profile_has_every_run_of_every_node_under_plain_names(
    onnx_file: Path, images: Tensor, tmp_path: Path
) -> None:
    opened = RUNTIME.open(onnx_file, 1, CPU, tmp_path / "profile")
    for _ in range(3):
        opened.run({"images": images.numpy()})
    times = opened.node_times()
    runs = [time for time in times if time.operation == "Conv"]  # into which onnxruntime fuses norm and activation
    assert len({time.name for time in runs}) == 1
    assert len(runs) == 3
    assert not any("nchwc" in time.name or time.name.endswith("_time") for time in times)
    assert all(time.microseconds >= 0 for time in times)


@pytest.mark.parametrize("threads", [1, 2])
def test_nodes_run_one_after_the_other_with_the_asked_threads_which_do_not_spin(threads: int) -> None:
    options = _options(threads, None)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert not options.enable_profiling


def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"net\.onnx: onnxruntime cannot load it as an ONNX model: "):
        RUNTIME.open(tmp_path / "net.onnx", 1, CPU, None)


def test_a_run_that_fails_raises_what_the_session_names(onnx_file: Path) -> None:
    opened = RUNTIME.open(onnx_file, 1, CPU, None)
    with pytest.raises(opened.errors, match="Got: 5 Expected: 8"):
        opened.run({"images": np.zeros((1, 3, 5, 5), np.float32)})
