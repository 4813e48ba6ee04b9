"""The memory of small graphs is that of MLX, byte for byte where its rules are simple; and the order is its own."""

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_sd.networks import gradients
from mlx_sd.train.memory.buffers import CPU, peak
from mlx_sd.train.memory.order import evaluation_order
from mlx_sd.train.memory.tracing import record

SIDE = 64
BYTES = 4 * SIDE * SIDE
ALONE = CPU._replace(in_flight=0)  # each operation ends before the next begins


def graph_of(function, inputs=1):
    """Returns the graph of a function of matrices, without gradients."""
    arrays = {f"x{i}": mx.zeros((SIDE, SIDE)) for i in range(inputs)}
    return record(lambda _, **named: [function(*named.values())], arrays)


@pytest.mark.parametrize(
    ("function", "beside"),
    [
        (lambda x: x + 1, 1),
        (lambda x: mx.exp(mx.exp(mx.exp(x))), 1),  # written over
        (lambda x: mx.exp(x) @ x, 2),  # a product is not
        (lambda x: mx.exp(x).T.reshape(-1), 2),  # a transposed matrix in a row is a copy
        (lambda x: mx.exp(x).reshape(-1).reshape(SIDE, SIDE), 1),
        (lambda x: mx.exp(x).T + mx.sin(x), 2),  # one of the two is written over, whatever its layout
    ],
)
def test_buffers_are_shared_and_freed_as_mlx_does(function, beside):
    assert peak(graph_of(function), None, device=ALONE).total == pytest.approx((1 + beside) * BYTES, abs=64)
    x = mx.random.normal((SIDE, SIDE))
    mx.eval(x)
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    y = function(x)
    mx.eval(y)
    assert mx.get_peak_memory() - before <= beside * BYTES + 4096  # what is in flight is not more here
    del y


def test_an_input_that_nobody_else_holds_is_written_over():
    graph = graph_of(mx.exp)
    (name,) = graph.parameters
    assert peak(graph, None, device=ALONE).total == 2 * BYTES
    assert peak(graph, None, [name], ALONE).total == BYTES


def test_what_is_in_flight_stays():
    graph = graph_of(lambda x: ((mx.exp(x) @ x) @ x) @ x)
    assert peak(graph, None, device=CPU).total == 5 * BYTES
    assert peak(graph, None, device=ALONE).total == 3 * BYTES


def test_convolutions_unfold_on_the_cpu_alone():
    weight = mx.zeros((2, 3, 3, 1))

    def step(_, x):
        """Convolves a picture."""
        return [mx.conv2d(x, weight, padding=1)]

    graph = record(step, {"x": mx.zeros((1, SIDE, SIDE, 1))})
    plain = peak(graph, None, device=ALONE._replace(unfolds=False)).total
    assert peak(graph, None, device=ALONE).total - plain == 4 * (SIDE + 2) ** 2 + 9 * BYTES


def test_the_forward_keeps_what_gradients_read():
    def step(recorder, x, w):
        """Returns loss and gradient of a chain of two products."""
        value, (gradient,) = recorder.value_and_gradients(lambda w: mx.exp(mx.exp(x @ w)).sum(), [w], mx.array(1.0))
        return [value, gradient]

    graph = record(step, {"x": mx.zeros((SIDE, SIDE)), "w": mx.zeros((SIDE, SIDE))})
    at = peak(graph, graph.outputs[0], device=ALONE)
    assert at.inputs == pytest.approx(2 * BYTES, abs=64)
    assert at.activations >= 2 * BYTES  # of both exponentials
    assert at.total == at.inputs + at.consumed + at.results + at.activations + at.working


def test_a_function_with_its_own_gradient_keeps_its_arguments_alone():
    def chain(x):
        """Returns a function of many steps."""
        for _ in range(4):
            x = mx.sin(x) * x
        return x

    def own(x):
        """Returns the same, which is computed again for its gradient."""
        return gradients.call(chain, lambda xs, ct, _: gradients.vjp(chain, mx.depends(list(xs), [ct]), ct), x)

    kept = {}
    for name, function in (("chain", chain), ("own", own)):

        def step(recorder, function=function, **arrays):
            """Returns loss and gradient."""
            value, found = recorder.value_and_gradients(
                lambda x: mx.exp(function(x)).sum(), [arrays["x"]], mx.array(1.0)
            )
            return [value, *found]

        graph = record(step, {"x": mx.zeros((SIDE, SIDE))})
        order = evaluation_order(graph)
        forward = [node.op for node in order]
        assert forward.count("Sin") == (4 if name == "chain" else 8)
        kept[name] = peak(graph, graph.outputs[0], device=ALONE).activations
    assert kept["own"] < kept["chain"]


def test_an_array_that_two_functions_take_has_gradients_of_both():
    def own(function):
        """Returns an elementwise function that is computed again for its gradient."""
        return lambda x: gradients.call(
            function, lambda xs, ct, _: gradients.vjp(function, mx.depends(list(xs), [ct]), ct), x
        )

    def step(recorder, x):
        """Returns loss and gradient of a product of two functions of one array."""
        sin, cosh = own(mx.sin), own(mx.cosh)
        value, slopes = recorder.value_and_gradients(lambda x: (sin(x) * cosh(x)).sum(), [x], mx.array(1.0))
        return [value, *slopes]

    operations = [node.op for node in evaluation_order(record(step, {"x": mx.zeros((SIDE, SIDE))}))]
    assert operations.count("Cos") == operations.count("Sinh") == 1  # their slopes


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=60))
def test_an_order_has_each_needed_node_once_and_after_its_inputs(pairs):
    def build(x):
        """Returns the last of sums of earlier values."""
        values = [x, mx.exp(x)]
        for a, b in pairs:
            values.append(mx.sin(values[a % len(values)]) + values[b % len(values)])
        return values[-1]

    graph = graph_of(build)
    done = {*graph.parameters, *graph.inputs}
    order = evaluation_order(graph)
    produced = {name for node in graph.nodes for name in node.outputs}
    for node in order:
        assert all(name in done or name not in produced for name in node.inputs)
        assert not {*node.outputs} & done
        done |= {*node.outputs}
    assert {*graph.outputs} <= done
