"""A Swift toolchain: found in PATH or in a root folder, or installed into one from Debian; runs the package's tests.

`python -m tests.support.swift_toolchain test` writes the golden files, builds, lints and runs `swift test`; with
`test --install FOLDER` it installs Swift first, where there is none.
`python -m tests.support.swift_toolchain install FOLDER`, as root on Debian, installs Debian's swiftlang into FOLDER.
"""

import contextlib
import hashlib
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import swift_goldens

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "coreml/swift"
GOLDENS = "build/swift-goldens"
VARIABLE = "MLXSD_SWIFT_ROOT"  # names a folder that `install` has filled
RELEASE = "trixie"  # the first of Debian with a Swift 6
OLDEST = 6
ADVICE = (
    f"no Swift {OLDEST} or newer was found: install it from swift.org, or as root on Debian run "
    f"`python -m tests.support.swift_toolchain install FOLDER` and set {VARIABLE}=FOLDER"
)

_INCLUDED = "swiftlang,ca-certificates"
_NEEDED = "libc6-dev libstdc++-14-dev g++ git libcurl4 libxml2-dev"  # that swiftlang does not ask for, and needs
_LINTED = "Package.swift Sources StandIns Tests App"
_SLOWEST = "recordings"  # of the modules that write golden files
_MOUNT = "/project"  # of the repository in a root folder
# In namespaces of its own, so that mounts and processes end with this one however it ends. $1 is the root, $2 the
# repository.
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_ENTER = """
mount --make-rprivate / && mount --bind "$2" "$1$3" && mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" &&
exec chroot "$1" /usr/bin/env -i "${@:5}" HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 bash -c "$4"
"""


class NoToolchain(Exception):
    """There is no Swift, or it cannot be installed; the message says what to do."""


@dataclass(frozen=True)
class Toolchain:
    """A Swift toolchain; `root` is the folder it is installed in, None where it is in PATH."""

    root: Path | None

    @property
    def project(self) -> str:
        """Returns the path of the repository as the toolchain sees it."""
        return str(ROOT) if self.root is None else _MOUNT

    @property
    def scratch(self) -> str:
        """Returns the folder of what is built, as the toolchain sees it."""
        return f"{ROOT}/build/swift" if self.root is None else f"/root/build-{_checkout()}"

    def run(
        self, command: str, environment: Mapping[str, str] | None = None, project: Path = ROOT, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Runs a bash command in `project`, which stands in the place of the repository; raises for an exit code."""
        place = str(project) if self.root is None else _MOUNT
        line = f"cd {shlex.quote(place)} && {command}"
        options.setdefault("check", True)
        if self.root is None:
            return subprocess.run(["bash", "-c", line], env={**os.environ, **(environment or {})}, **options)
        (self.root / _MOUNT.lstrip("/")).mkdir(exist_ok=True)
        pairs = [f"{name}={value}" for name, value in (environment or {}).items()]
        words = ["bash", "-c", _ENTER, "enter", str(self.root), str(project.resolve()), _MOUNT, line, *pairs]
        return subprocess.run([*_UNSHARE, *words], **options)

    def swift(self, words: str, scratch: str | None = None, folder: str = PACKAGE, **options: Any) -> Any:
        """Runs `swift build`, `swift test` or `swift run` on the package in a folder of the project."""
        verb, _, others = words.partition(" ")
        # The sandbox of manifests needs rights that a container does not have.
        place = f"--package-path {folder} --scratch-path {scratch or self.scratch} --disable-sandbox"
        return self.run(f"swift {verb} {place} {others}", **options)


def _checkout() -> str:
    """Returns a name for this checkout: several may share a root folder, and none may build into another's."""
    return hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]


def find() -> Toolchain:
    """Returns the toolchain of the folder that MLXSD_SWIFT_ROOT names, or of PATH; raises NoToolchain."""
    folder = os.environ.get(VARIABLE)
    if folder:
        if not os.path.lexists(f"{folder}/usr/bin/swift"):
            raise NoToolchain(f"{VARIABLE}={folder} has no usr/bin/swift; {ADVICE}")
        if os.geteuid() != 0 or not shutil.which("unshare"):
            raise NoToolchain(f"{VARIABLE} is set, and only root can enter that folder, with unshare; or unset it")
        return Toolchain(Path(folder).resolve())
    if shutil.which("swift"):
        printed = subprocess.run(["swift", "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"Swift version (\d+)", printed)
        if version and int(version[1]) >= OLDEST:
            return Toolchain(None)
    raise NoToolchain(ADVICE)


def install(folder: Path) -> None:
    """Installs Debian's swiftlang into a folder, where it is not there yet; needs root, and never leaves half of it.

    Raises NoToolchain where this machine cannot, with the reason.
    """
    if os.path.lexists(folder / "usr/bin/swift"):
        print(f"{folder} has a Swift already")
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoToolchain("installing Swift needs root on Debian or a relative of it; " + ADVICE)
    address = mirror()
    if not shutil.which("debootstrap"):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "debootstrap"], check=True)
    start, part = time.monotonic(), folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        words = ["debootstrap", "--variant=minbase", f"--include={_INCLUDED}", RELEASE, str(part), address]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        quiet = "DEBIAN_FRONTEND=noninteractive apt-get -qq -o APT::Sandbox::User=root"
        command = (
            f"({quiet} update && {quiet} install -y --no-install-recommends {_NEEDED} && apt-get clean) >/dev/null"
        )
        Toolchain(part).run(command)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    print(f"Swift is in {folder}; {time.monotonic() - start:.0f} s")


def mirror(sources: Path = Path("/etc/apt")) -> str:
    """Returns the address from which this machine gets Debian; raises NoToolchain where it is another system."""
    files = [sources / "sources.list", *sorted((sources / "sources.list.d").glob("*"))]
    for file in (file for file in files if file.is_file()):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.lstrip().startswith("#"):
                continue
            for address in re.findall(r"\bhttps?://\S+", line):
                if address.rstrip("/").endswith("/debian"):
                    return str(address)
    raise NoToolchain(f"no mirror of Debian is in {sources}; {ADVICE}")


def test(selection: Sequence[str], folder: Path | None = None) -> None:
    """Writes the golden files, builds the package, runs its tests and lints it; raises NoToolchain.

    selection: words for `swift test`, such as --filter NAME; the golden files then stay as they are. folder: into which
    Swift is installed meanwhile, where there is none yet.
    """
    with contextlib.ExitStack() as stack:
        wait = stack.enter_context(_golden_files()) if not selection else None
        if folder:
            install(folder)
            os.environ[VARIABLE] = str(folder)
        toolchain = find()
        start = time.monotonic()
        toolchain.swift("build --build-tests -Xswiftc -warnings-as-errors")
        print(f"== swift build: {time.monotonic() - start:.0f} s", flush=True)
        toolchain.run(f"cd {PACKAGE} && swift format lint --strict --recursive {_LINTED}")
        toolchain.run(f"cd {PACKAGE} && find App -name '*.swift' -print0 | xargs -0 -n1 swiftc -parse")
        if wait:
            wait()
    start = time.monotonic()
    environment = {"MLXSD_GOLDENS": f"{toolchain.project}/{GOLDENS}"}
    words = f"test --skip-build --disable-xctest -Xswiftc -warnings-as-errors {shlex.join(selection)}"
    toolchain.swift(words, environment=environment)
    print(f"== swift test: {time.monotonic() - start:.0f} s", flush=True)


def write_goldens() -> None:
    """Writes the golden files of the package's tests, in the place of earlier ones."""
    with _golden_files() as wait:
        wait()


@contextlib.contextmanager
def _golden_files() -> Iterator[Callable[[], None]]:
    """Writes the golden files in processes of their own, the slowest in one, while the block does other work.

    Yields a function that waits for them, and puts them in the place of earlier ones; it raises CalledProcessError.
    """
    start, part = time.monotonic(), ROOT / f"{GOLDENS}.part"
    shutil.rmtree(part, ignore_errors=True)
    others = [
        info.name for info in pkgutil.iter_modules(swift_goldens.__path__) if info.name not in (_SLOWEST, "__main__")
    ]
    command = [sys.executable, "-m", "tests.support.swift_goldens", str(part)]
    writers = [subprocess.Popen([*command, *names], cwd=ROOT) for names in ([_SLOWEST], others)]

    def wait() -> None:
        """Waits for the golden files."""
        for writer in writers:
            if code := writer.wait():
                raise subprocess.CalledProcessError(code, writer.args)
        shutil.rmtree(ROOT / GOLDENS, ignore_errors=True)
        part.rename(ROOT / GOLDENS)
        print(f"== golden files: {time.monotonic() - start:.0f} s", flush=True)

    try:
        yield wait
    finally:
        for writer in writers:
            if writer.poll() is None:
                writer.kill()
                writer.wait()
        shutil.rmtree(part, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Runs `test`, `install FOLDER` or `find`; returns the exit code, 2 where there is no toolchain."""
    words = list(arguments) or ["find"]
    try:
        if words[0] == "install" and len(words) == 2:
            install(Path(words[1]))
        elif words[:2] == ["test", "--install"] and len(words) == 3:
            test([], Path(words[2]))
        elif words[0] == "test":
            test(words[1:])
        elif words == ["find"]:
            print(find().root or shutil.which("swift"))
        else:
            usage = "find | test [--filter NAME | --install FOLDER] | install FOLDER"
            print(f"usage: python -m tests.support.swift_toolchain {usage}")
            return 2
    except NoToolchain as error:
        print(f"swift: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode or 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
