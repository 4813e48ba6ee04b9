"""Jobs: the states of targets, and claims between processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mlx_sd import Request, StableDiffusion, jobs, metadata
from mlx_sd.core.files import atomic_file
from mlx_sd.jobs import Job, State
from mlx_sd.prompts.embeddings import Embedding

FAST = {"prompt": "a tent", "seed": 3, "steps": 1, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def picture():
    """A completed request and its picture."""
    sd = StableDiffusion.load("tiny", dtype="float32")
    (result,) = sd.stream([Request(**FAST)])
    return result.requests[0], result.images[0]


@pytest.fixture(params=["a.png", "a.jpg", "a.webp"])
def job(request, picture, tmp_path):
    """A job that is done."""
    done = Job(picture[0], tmp_path / request.param)
    metadata.save(picture[1], done.target, picture[0].to_json())
    return done


def test_a_picture_is_done_when_it_says_so_and_its_pixels_agree(job):
    assert jobs.state(job) is State.DONE


def test_no_file_and_an_empty_one_are_missing(picture, tmp_path):
    job = Job(picture[0], tmp_path / "none.png")
    assert jobs.state(job) is State.MISSING
    job.target.touch()
    assert jobs.state(job) is State.MISSING
    assert jobs.state(Job(picture[0], job.target / "below.png")) is State.MISSING


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_other_pixels_under_the_same_settings_are_broken(picture, tmp_path, name):
    job = Job(picture[0], tmp_path / name)
    metadata.save(picture[1], job.target, picture[0].to_json())
    texts = metadata.picture_file.read(job.target)
    edited = picture[1].copy()
    edited.paste((255, 0, 0), (0, 0, 16, 16))
    with job.target.open("wb") as file:  # as an editor that keeps the metadata
        metadata.picture_file.write(edited, file, metadata.picture_file.format_of(job.target), texts)
    assert jobs.state(job) is State.BROKEN


def test_a_truncated_png_is_broken(picture, tmp_path):
    job = Job(picture[0], tmp_path / "a.png")
    metadata.save(picture[1], job.target, picture[0].to_json())
    content = job.target.read_bytes()
    job.target.write_bytes(content[: len(content) - 200])
    assert jobs.state(job) is State.BROKEN


def test_pictures_of_other_settings_and_other_files_are_not_the_job_s(job):
    other = job.request.with_values(steps=2)
    assert jobs.state(Job(other, job.target)) is State.OTHER
    Image.new("RGB", (8, 8)).save(job.target)
    assert jobs.state(job) is State.OTHER
    job.target.write_text("no picture")
    assert jobs.state(job) is State.OTHER


def test_files_count_by_their_content_not_by_their_names(job):
    moved = job.request.with_values(model="elsewhere", init_image="b.png", init_image_hash="1" * 64)
    same = job.request.with_values(model="here", init_image="c.png", init_image_hash="1" * 64)
    other = same.with_values(init_image_hash="2" * 64)
    assert jobs.same_picture(moved, same) and not jobs.same_picture(moved, other)
    here, there, another = (
        job.request.with_values(embeddings=[Embedding(path, "zorb", digest)])
        for path, digest in (("a.safetensors", "1" * 64), ("b.safetensors", "1" * 64), ("a.safetensors", "2" * 64))
    )
    assert jobs.same_picture(here, there) and not jobs.same_picture(here, another)


CLAIM = """
import sys, time
from pathlib import Path
from mlx_sd import jobs
claim = jobs.claim(Path(sys.argv[1]), "the other")
print("claimed" if claim else "refused", flush=True)
if sys.argv[2:]:
    time.sleep(600)
"""


def _claims(target: Path, *stay: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CLAIM, str(target), *stay], stdout=subprocess.PIPE, text=True)


def test_one_process_claims_a_target_and_a_dead_one_loses_it(picture, tmp_path):
    job = Job(picture[0], tmp_path / "a.png")
    other = _claims(job.target, "stay")
    assert other.stdout.readline() == "claimed\n"
    assert jobs.claim(job.target) is None and jobs.state(job) is State.CLAIMED
    other.kill()
    other.communicate()
    assert jobs.claim_path(job.target).exists() and jobs.state(job) is State.MISSING
    claim = jobs.claim(job.target)
    assert claim is not None and jobs.state(job) is State.CLAIMED
    assert _claims(job.target).communicate()[0] == "refused\n"
    claim.release()
    assert list(tmp_path.iterdir()) == []
    assert _claims(job.target).communicate()[0] == "claimed\n"


def test_the_claim_of_a_silent_process_is_taken_over_once_and_it_notices(tmp_path):
    target = tmp_path / "a.png"
    silent = jobs.claim(target, "rank 1")
    assert silent is not None and silent.holds() and jobs.owner_of(target) == "rank 1"
    assert jobs.take_over(target, "rank 2", "rank 0") is None and silent.holds()  # the claim of another
    taken = jobs.take_over(target, "rank 1", "rank 0")
    assert taken is not None and taken.holds() and not silent.holds() and jobs.owner_of(target) == "rank 0"
    assert jobs.take_over(target, "rank 1", "rank 2") is None and taken.holds()
    silent.release()  # as it does when it wakes up
    assert taken.holds() and jobs.claim(target) is None
    taken.release()
    assert list(tmp_path.iterdir()) == [] and jobs.owner_of(target) is None


def test_a_claim_names_its_owner_also_after_a_dead_one(tmp_path):
    target = tmp_path / "a.png"
    other = _claims(target, "stay")
    assert other.stdout.readline() == "claimed\n" and jobs.owner_of(target) == "the other"
    other.kill()
    other.communicate()
    claim = jobs.claim(target, "me")
    assert claim is not None and jobs.owner_of(target) == "me"
    claim.release()


def test_a_picture_whose_claim_is_lost_is_not_written(picture, tmp_path):
    target = tmp_path / "a.png"

    def lost() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        metadata.save(picture[1], target, None, before=lost)
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_dead_processes_are_removed_and_those_of_others_are_not(tmp_path):
    target, other = tmp_path / "a.png", tmp_path / "b.png"
    with atomic_file(target):
        (written,) = tmp_path.iterdir()
    written.touch()  # as where the process was killed before its end
    busy = tmp_path / ".b.png.abcd1234"
    strange = [tmp_path / ".a.png.note", tmp_path / ".c.png.abcd1234"]  # of nobody, and of none of these targets
    for path in (busy, *strange):
        path.touch()
    claim = jobs.claim(other)  # somebody writes it just now
    jobs.sweep_temporary([target, other, tmp_path / "none" / "d.png"])
    assert not written.exists() and busy.exists() and target.exists()
    claim.release()
    jobs.sweep_temporary([other])
    assert {*tmp_path.iterdir()} == {target, *strange}
