"""Latency: what is counted is what runs, and loops are compared by what they cost."""

import json
import sys

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.speed import latency, loops, operations
from bench.speed.loops import Bench, Loop
from coreml.lowering.graph import record
from coreml.lowering.interfaces import UNetFunctions
from mlx_sd import Adaptive, DeepCache, TGate
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.core.errors import InputError
from mlx_sd.networks.counting import counting


@pytest.fixture(scope="module")
def bench():
    return Bench(loops.setting("tiny", 7, side=8))


@pytest.mark.parametrize("model", loops.MODELS)
def test_a_step_counts_as_many_multiplications_as_its_package(model):
    """The same numbers by another way: Core ML's graph of the whole UNet."""
    bench = Bench(loops.setting(model, 1))
    c, side = bench.unet.config, bench.setting.side
    pooled = c.added_inputs - 6 * c.added_time_dims if c.added_time_dims else 0
    unet = build("unet", loops.config(model), model)
    made = UNetFunctions(c, loops.TOKENS, pooled, side, side, 1, mx.float32, 1)
    assert bench.macs(Loop()) == [record(made.full(), unet).macs()]


def test_full_size_counts_are_those_of_the_papers_rule():
    """GMACs of SD 1.5 and SDXL, full and at branch 0, known from elsewhere (counted with PyTorch hooks)."""
    for model, full, shallow in (("sd15", 401.6, 31.6), ("sdxl", 3380.6, 49.0)):
        counted = [n / 1e9 for n in Bench(loops.setting(model, 2)).macs(Loop(DeepCache(2)))]
        assert counted == [pytest.approx(full, abs=0.1), pytest.approx(shallow, abs=0.1)]


def test_counting_computes_nothing():
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    Bench(loops.setting("sdxl", 2)).macs(Loop(DeepCache(2)))
    assert mx.get_peak_memory() - before < 64e6  # the weights alone would take 10 GB


@pytest.mark.parametrize("branch", range(9))
def test_evaluations_are_full_where_the_policy_says(bench, branch):
    policy = DeepCache(3, branch)
    full, cached = bench.macs(Loop())[0], bench.macs(Loop(policy))
    assert [n == full for n in cached] == [i in policy.full_evaluations(7) for i in range(7)]
    assert cached[0] > cached[1] == cached[2]
    if branch:
        assert cached[1] > bench.macs(Loop(DeepCache(3, branch - 1)))[1]


def test_guidance_takes_twice_the_multiplications():
    one, two = (Bench(loops.setting("tiny", 1, guided=guided)).macs(Loop())[0] for guided in (False, True))
    rows = Bench(loops.setting("tiny", 1, batch=2)).macs(Loop())[0]
    assert two == rows and 1.9 * one < two <= 2 * one


@pytest.mark.slow
def test_a_loop_with_a_control_network_counts_its_first_stages_alone_where_it_is_cached():
    plain, controlled = (Bench(loops.setting("sd15", 4, guided=True, control=control)) for control in (False, True))
    full, cached = (
        [b - a for a, b in zip(plain.macs(loop), controlled.macs(loop), strict=True)]
        for loop in (Loop(), Loop(DeepCache(2)))
    )
    assert full == [pytest.approx(2 * 134.3e9, rel=0.01)] * 4  # the image is embedded before
    assert cached[::2] == full[::2] and all(0 < n < 0.01 * full[0] for n in cached[1::2])


def test_there_is_no_control_network_for_the_embedded_checkpoint_and_for_peers(capsys):
    with pytest.raises(InputError, match="no ControlNet for tiny"):
        loops.setting("tiny", 4, control=True)
    assert latency.main(["--model", "sd15", "--control", "--peer", "diffusers", "--steps", "1"]) == 2
    assert "have no ControlNet here" in capsys.readouterr().err


def test_a_policy_that_depends_on_pictures_is_not_counted(bench):
    with pytest.raises(InputError, match=r"adaptive:0.1:0 computes depends on the pictures"):
        bench.macs(Loop(Adaptive()))


def test_timed_operations_are_the_counted_ones(bench):
    with counting(bench.unet) as counted:
        bench.step(1)
    with operations.timing(bench.unet) as timed:
        mx.eval(bench.step(1))
    real = [o for o in timed if o.op != operations.BETWEEN]
    assert [o._replace(seconds=0) for o in real] == counted
    assert all(o.seconds > 0 for o in real)
    levels = operations.totals(timed, lambda o: o.level)
    assert {"down.0", "down.8", "middle", "up.8", "conv"} <= set(levels)
    assert sum(o.macs for o in levels.values()) == bench.macs(Loop())[0]


def test_counting_and_timing_change_no_result(bench):
    plain = bench.step(1)[0]
    mx.eval(plain)
    with counting(bench.unet):
        bench.step(1)
    with operations.timing(bench.unet):
        timed = bench.step(1)[0]
    assert mx.array_equal(timed, plain) and mx.array_equal(bench.step(1)[0], plain)


def test_a_loop_is_compared_with_the_full_one_of_its_maker_round_by_round():
    full, cached = 100, 10
    runs = [
        latency.Run("a", Loop(), [full] * 4, [1.0, 1.0, 9.0, 1.0]),
        latency.Run("a", Loop(DeepCache(2)), [full, cached] * 2, [1.0, 0.2, 9.0, 0.2]),
        latency.Run("b", Loop(), [full] * 4, [2.0] * 4),
        latency.Run("b", Loop(DeepCache(2)), [full, cached] * 2, [2.0, 0.2] * 2),
    ]
    found = latency.summary(runs)
    ours, theirs = found["loops"][1], found["loops"][3]
    assert ours["ideal"] == theirs["ideal"] == round(400 / 220, 3)
    assert ours["speedup"] == round(12 / 10.4, 3) and ours["speedup_by_medians"] == round(4 / 2.4, 3)
    assert ours["of_ideal"] == round(4 / 2.4 * 220 / 400, 3)
    assert theirs["speedup"] == theirs["speedup_by_medians"] == round(8 / 4.4, 3)
    assert ours["seconds"] == [1.0, 0.2, 9.0, 0.2]
    kind = {"by": "a", "macs": 100, "count": 6, "median": 1.0, "min": 1.0, "max": 9.0, "relative": 1.0}
    assert found["kinds"][0] == kind


def test_a_machine_that_slows_down_changes_no_speed_up():
    """As under a growing load: a gate's cheap steps all come late."""
    macs, slower = [100] * 4 + [50] * 4, [2.0**i for i in range(8)]
    runs = [
        latency.Run("a", Loop(), [100] * 8, slower),
        latency.Run("a", Loop(None, TGate(4)), macs, [n / 100 * s for n, s in zip(macs, slower, strict=True)]),
    ]
    gated = latency.summary(runs)["loops"][1]
    assert gated["speedup_by_medians"] == gated["ideal"] and gated["of_ideal"] == 1


@pytest.mark.slow
def test_results_hold_every_loop(tmp_path, capsys):
    file = tmp_path / "latency.json"
    flags = ["--model", "tiny", "--latents", "8", "--steps", "4", "--loop", "2", "--loop", "3:1", "--profile"]
    assert latency.main([*flags, "--guided", "--json", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(file.read_text())
    assert [loop["loop"] for loop in found["loops"]] == ["full", "2:0", "3:1"]
    assert found["guided"] and found["version"] == 1 and found["machine"]["mlx"]
    assert [told["step"] for told in found["profile"]] == ["full", "branch 0", "branch 1"]
    assert sum(kind["count"] for kind in found["kinds"]) == 12


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--loop", "fast"], "takes N or N:BRANCH"),
        (["--loop", "3:40"], "there is no branch 40 in tiny; it has 0 to "),
        (["--latents", "6"], "a multiple of "),
        (["--steps", "0"], "at least 1, not 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(flags, why, capsys):
    assert latency.main(["--model", "tiny", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and why in error


def test_a_device_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(mx, "is_available", lambda device: False)
    assert latency.main(["--model", "tiny", "--device", "gpu"]) == 2
    assert capsys.readouterr().err == "bench latency: MLX has no gpu here; leave out --device\n"


def test_a_peer_that_is_not_installed_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert latency.main(["--model", "tiny", "--peer", "diffusers"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--peer diffusers needs diffusers; pip install 'mlx-sd[reference]'" in said


def test_only_a_peer_is_compiled(capsys):
    assert latency.main(["--model", "tiny", "--compile"]) == 2
    assert capsys.readouterr().err == "bench latency: --compile is of --peer; give both, or neither\n"


@settings(deadline=None)
@given(
    st.none() | st.builds(DeepCache, st.integers(1, 60), st.integers(0, 11), st.integers(0, 2)),
    st.none() | st.builds(TGate, *[st.integers(1, 99)] * 4),
)
def test_a_loop_prints_as_what_it_is_read_from(deepcache, tgate):
    loop = Loop(deepcache, tgate)
    assert Loop.parse(str(loop)) == loop
    assert loop.flags.count("--") == bool(deepcache) + bool(tgate)


@pytest.mark.parametrize("text", ["", "/", "3/", "3/4", "3/tgate:x", "tgate:", "tgate:5/tgate:6", "full/3"])
def test_text_that_is_no_loop_is_refused_in_one_line(text):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        Loop.parse(text)


def test_past_the_gate_a_guided_loop_costs_what_an_unguided_one_does():
    guided, plain = (Bench(loops.setting("tiny", 6, side=8, guided=guided)) for guided in (True, False))
    loop = Loop(None, TGate(3, 1))
    one, two = plain.macs(loop), guided.macs(loop)
    assert one[3:] == two[3:] == [one[3]] * 3  # one batch, and no more cross-attention
    assert one[3] < one[0] and two[:3] == [two[0]] * 3 and two[0] == guided.macs(Loop())[0]


def test_kept_self_attention_is_not_counted(bench):
    counted = bench.macs(Loop(None, TGate(6, 5, 1, 2)))
    assert counted[0] == counted[1] == counted[2] == counted[5] > counted[3] == counted[4]


def test_with_deepcache_the_gate_is_full_on_both_sides(bench):
    counted = bench.macs(Loop(DeepCache(9), TGate(4)))
    assert counted[0] == counted[3] > counted[4] > max(counted[1:3] + counted[5:])
