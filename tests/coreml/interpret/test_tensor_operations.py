"""Slices, gathers and changes of shape, saved and interpreted, are numpy's."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from coreml.mil.coremltools import mb
from tests.support.programs import IOS18, RANDOM, agree, normal, numbers, run


@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_slices(folder, data, shape):
    """Any that numpy takes, negative and masked, on every axis; and the same slice replaced."""
    x = normal(*shape)
    flags = st.lists(st.booleans(), min_size=len(shape), max_size=len(shape))
    begin = [data.draw(st.integers(-n, n - 1)) for n in shape]
    stride = [data.draw(st.integers(1, 3)) for _ in shape]
    length = [data.draw(st.integers(1, n - b % n)) for n, b in zip(shape, begin, strict=True)]
    end = [b % n + k for n, b, k in zip(shape, begin, length, strict=True)]
    masks = {name: data.draw(flags) for name in ("begin_mask", "end_mask", "squeeze_mask")}
    if all(masks["squeeze_mask"]):
        masks["squeeze_mask"][0] = False
    index = tuple(
        (0 if m else b) if q else slice(None if m else b, None if e_masked else e, s)
        for b, e, s, m, e_masked, q in zip(begin, end, stride, *masks.values(), strict=True)
    )
    (result,) = run(folder, lambda a: mb.slice_by_index(x=a, begin=begin, end=end, stride=stride, **masks), x)
    agree(result, x[index])
    (result,) = run(folder, lambda a: mb.slice_by_size(x=a, begin=begin, size=length), x)
    agree(result, x[tuple(slice(b % n, b % n + k) for n, b, k in zip(shape, begin, length, strict=True))])
    if not any(masks["squeeze_mask"]):
        update, expected = normal(*x[index].shape), x.copy()
        expected[index] = update
        (result,) = run(
            folder,
            lambda a, u: mb.slice_update(x=a, update=u, begin=begin, end=end, stride=stride, **masks),
            x,
            update,
            opset=IOS18,
        )
        agree(result, expected)


def test_backward_slices_and_reversal(folder):
    x = normal(5, 4)
    build = lambda a: [  # noqa: E731
        mb.slice_by_index(x=a, begin=[4, 3], end=[0, 0], stride=[-2, -1], end_mask=[True, False]),
        mb.reverse(x=a, axes=[1]),
        mb.reverse(x=a),
    ]
    for g, w in zip(run(folder, build, x), [x[::-2, 3:0:-1], x[:, ::-1], x[::-1, ::-1]], strict=True):
        agree(g, w)


def test_shapes(folder):
    x = normal(2, 1, 6, 4)
    build = lambda a: [  # noqa: E731
        mb.reshape(x=a, shape=[4, -1]),
        mb.reshape(x=a, shape=[0, 3, 2, 0]),
        mb.transpose(x=a, perm=[2, 0, -1, 1]),
        mb.expand_dims(x=a, axes=[-1]),
        mb.squeeze(x=a, axes=[1]),
        mb.squeeze(x=a),
        mb.flatten2d(x=a, axis=2),
        *mb.split(x=a, num_splits=3, axis=2),
        *mb.split(x=a, split_sizes=[1, 3], axis=-1),
        mb.concat(values=[a, a, mb.square(x=a)], axis=-1),
        mb.concat(values=[a, mb.square(x=a)], axis=2, interleave=True),
        mb.stack(values=[a, mb.square(x=a)], axis=1),
        mb.tile(x=a, reps=[1, 3, 2, 1]),
        mb.shape(x=a),
        mb.pixel_shuffle(x=mb.reshape(x=a, shape=[1, 8, 2, 3]), upscale_factor=2),
        mb.band_part(x=a, lower=1, upper=0),
        mb.band_part(x=a, lower=-1, upper=2),
        mb.fill_like(ref_tensor=a, value=2.5),
    ]
    shuffled = x.reshape(1, 2, 2, 2, 2, 3).transpose(0, 1, 4, 2, 5, 3).reshape(1, 2, 4, 6)
    expected = [
        x.reshape(4, -1),
        x.reshape(2, 3, 2, 4),
        x.transpose(2, 0, 3, 1),
        x[..., None],
        x[:, 0],
        x[:, 0],
        x.reshape(2, 24),
        *np.split(x, 3, 2),
        x[..., :1],
        x[..., 1:],
        np.concatenate([x, x, x * x], -1),
        np.stack([x, x * x], 3).reshape(2, 1, 12, 4),
        np.stack([x, x * x], 1),
        np.tile(x, (1, 3, 2, 1)),
        numbers(2, 1, 6, 4),
        shuffled,
        np.tril(np.triu(x, -1)),
        np.tril(x, 2),
        np.full(x.shape, 2.5),
    ]
    for g, w in zip(run(folder, build, x), expected, strict=True):
        agree(g, w)


def test_shapes_known_only_at_run_time(folder):
    """fill, reshape, range_1d and tile with what other operations computed."""
    x, n = normal(2, 6), numbers(3, 4)
    build = lambda a, b: [  # noqa: E731
        mb.fill(shape=b, value=1.5),
        mb.reshape(x=a, shape=b),
        mb.range_1d(start=0, end=mb.reduce_sum(x=b, axes=[0], keep_dims=False), step=2),
    ]
    for g, w in zip(
        run(folder, build, x, n), [np.full((3, 4), 1.5), x.reshape(3, 4), numbers(0, 2, 4, 6)], strict=True
    ):
        agree(g, w)


@given(
    x=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    inner=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    data=st.data(),
)
def test_gathers(folder, x, inner, data):
    batch = data.draw(st.integers(0, len(x) - 1))
    axis = data.draw(st.integers(batch, len(x) - 1))
    values = normal(*x)
    indices = RANDOM.randint(0, x[axis], (*x[:batch], *inner)).astype(np.int32)
    (result,) = run(folder, lambda a, i: mb.gather(x=a, indices=i, axis=axis, batch_dims=batch), values, indices)
    expected = np.empty((*x[:batch], *x[batch:axis], *inner, *x[axis + 1 :]), np.float32)
    for at in np.ndindex(*x[:batch]):
        expected[at] = np.take(values[at], indices[at], axis - batch)
    agree(result, expected)

    along = RANDOM.randint(0, x[axis], [3 if i == axis else n for i, n in enumerate(x)]).astype(np.int32)
    (result,) = run(folder, lambda a, i: mb.gather_along_axis(x=a, indices=i, axis=axis), values, along)
    agree(result, np.take_along_axis(values, along, axis))

    depth = data.draw(st.integers(1, len(x) - batch))
    points = np.stack([RANDOM.randint(0, n, (*x[:batch], *inner)) for n in x[batch : batch + depth]], -1)
    (result,) = run(
        folder, lambda a, i: mb.gather_nd(x=a, indices=i, batch_dims=batch), values, points.astype(np.int32)
    )
    expected = np.empty((*x[:batch], *inner, *x[batch + depth :]), np.float32)
    for at in np.ndindex(*x[:batch]):
        expected[at] = values[at][tuple(np.moveaxis(points[at], -1, 0))]
    agree(result, expected)


def test_one_hot_and_padding(folder):
    x, i = normal(2, 3, 4), numbers(2, 0, 1)
    build = lambda a, b: [  # noqa: E731
        mb.one_hot(indices=b, one_hot_vector_size=4),
        mb.one_hot(indices=b, one_hot_vector_size=4, axis=0, on_value=2.0, off_value=-1.0),
        mb.pad(x=a, pad=[1, 2], mode="constant", constant_val=3.0),
        mb.pad(x=a, pad=[0, 0, 2, 1, 1, 3], mode="reflect"),
        mb.pad(x=a, pad=[2, 1, 1, 3], mode="replicate"),
    ]
    hot = np.eye(4)[i]
    expected = [
        hot.astype(np.int32),
        (3 * hot - 1).T.astype(np.float32),
        np.pad(x, [(0, 0), (0, 0), (1, 2)], constant_values=3),
        np.pad(x, [(0, 0), (2, 1), (1, 3)], "reflect"),
        np.pad(x, [(0, 0), (2, 1), (1, 3)], "edge"),
    ]
    for g, w in zip(run(folder, build, x, i), expected, strict=True):
        agree(g, w)
