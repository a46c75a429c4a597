"""Tools that record what a network does see the plain operations."""

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from sharedmlp import SharedMLP, SharedMLPMaxPool
from tests.covering import pairwise
from tests.ops.compare import BACKENDS, LAYERS, SHAPE, WIDTHS, is_fused, make, points, same

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_layer = pytest.mark.parametrize("kind", LAYERS)


@each_backend
@each_layer
def test_without_a_tool_the_default_is_fused(kind, backend):
    """Or the tests of this room would show nothing."""
    module = make(kind, backend)
    assert is_fused(module.train(), points())
    with torch.no_grad():
        assert is_fused(module.eval(), points())


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pairwise(
    backend=BACKENDS,
    kind=LAYERS,
    grad=[True, False],
    check_trace=[True, False],
    training=[True, False],
)
def test_jit_trace(kind, backend, grad, check_trace, training):
    def use(module):
        with torch.set_grad_enabled(grad):
            # A training step moves running statistics, so that a second one differs: checked by
            # the comparison below, not by the tracer.
            traced = torch.jit.trace(module, (points(),), check_trace=check_trace and not training)
            return traced(points(seed=2)), traced(points(seed=3))

    same(use, kind, backend, training=training)


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@each_backend
@pytest.mark.parametrize("cls", [SharedMLP, SharedMLPMaxPool])
def test_a_fused_path_that_must_be_taken_is_an_error_under_a_tracer(cls, backend):
    module = cls(WIDTHS, backend=backend, fused=True).eval()
    with torch.no_grad(), pytest.raises(ValueError, match=r"jit\.trace records"):
        torch.jit.trace(module, (torch.randn(SHAPE),))


@each_backend
@each_layer
def test_make_fx(kind, backend, training):
    def use(module):
        graph = make_fx(lambda x: module(x))(points())
        return graph(points(seed=2)), graph(points(seed=3))

    same(use, kind, backend, training=training)


@pairwise(
    backend=BACKENDS,
    shape=[(7, 3), (2, 5, 3), (2, 5, 4, 3), (2, 2, 5, 4, 3)],
    channel_dim=[-1, 1],
    training=[True, False],
)
def test_torch_fx_traces_a_shared_mlp(backend, channel_dim, shape, training):
    """The graph has the modules in it, and takes every shape that the layer takes."""
    module = make("mlp", backend, channel_dim=channel_dim).train(training)
    graph = fx.symbolic_trace(module)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert targets[:3] == ["layers.0.linear", "layers.0.norm", "layers.0.activation"]
    x = points(*shape).movedim(-1, channel_dim)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    want = module(x)
    module.load_state_dict(state)
    torch.testing.assert_close(graph(x), want, rtol=1e-9, atol=1e-9)


@each_backend
def test_torch_export(backend):
    def use(module):
        return torch.export.export(module, (points(),)).module()(points(seed=2))

    same(use, "pool", backend)
    same(use, "mlp", backend)


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@each_backend
@pytest.mark.parametrize("kind", ["mlp", "pool"])
@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_onnx(kind, backend, dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    pytest.importorskip("onnx")

    def use(module):
        path = tmp_path / f"{module.fused}.onnx"
        options = {"input_names": ["x"], "dynamo": dynamo}
        torch.onnx.export(module, (points(dtype=torch.float32),), str(path), **options)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        (y,) = session.run(None, {name: points(seed=2, dtype=torch.float32).numpy()})
        return torch.from_numpy(y)

    same(use, kind, backend, dtype=torch.float32)


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")
def test_torch_jit_script_is_refused_by_torch_as_documented():
    with pytest.raises(Exception, match=r"(?s)."):
        torch.jit.script(SharedMLP(WIDTHS))
