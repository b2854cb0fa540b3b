"""Getting a bundle: given by the user, cached, upstream (none is needed then), or built from Debian's source."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bundle import build, debs, repo, source
from tests.bundle.images import ImageBuilder
from tests.bundle.layout import Bundle, Upstream, problems_of, read_bundle
from tests.bundle.recipe import DEFAULT_VERSIONS, Folders, KubernetesVersion, recipe_key
from tests.bundle.shell import BundleError, Progress

UPSTREAM_URL = "https://pkgs.k8s.io/core:/stable:"
PROBE_TIMEOUT_S = 3.0
LOCK_DEADLINE_S = 1800.0
LOCK_POLL_S = 0.5
KEEP_UNUSED_S = 7 * 24 * 3600.0


def given() -> Bundle | None:
    """The bundle KOPS_BUNDLE names, checked for its shape; BundleError with all that is wrong with it."""
    named = os.environ.get("KOPS_BUNDLE")
    if not named:
        return None
    folder = Path(named).expanduser()
    if problems := problems_of(folder):
        listed = "\n  ".join(problems)
        raise BundleError(f"KOPS_BUNDLE={named} is not a bundle (see tests/bundle/README.md):\n  {listed}")
    return read_bundle(folder)


def cached(versions: Sequence[str] = DEFAULT_VERSIONS) -> Bundle | None:
    """The bundle that is given or built already and has these versions, else None. Builds nothing."""
    bundle = given()
    if bundle is None:
        folder = Folders.from_environment().bundle()
        if not (folder / "bundle.json").is_file():
            return None
        bundle = read_bundle(folder)
        with suppress(OSError):
            os.utime(folder / "bundle.json")  # in use: see forget_old
    return bundle if set(versions) <= set(bundle.kubernetes_versions) else None


def upstream(versions: Sequence[str], base_url: str = UPSTREAM_URL) -> Upstream | None:
    """The upstream repository if it answers for the minor of every version, within a few seconds."""
    minors = sorted({Bundle.minor_of(version) for version in versions})
    for minor in minors:
        request = urllib.request.Request(f"{base_url}/{minor}/deb/Release", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S):
                continue
        except (OSError, urllib.error.URLError):
            return None
    return Upstream(base_url, tuple(minors))


@contextmanager
def build_lock(folders: Folders, progress: Progress) -> Iterator[None]:
    """Hold the build folder alone; BundleError when another process keeps it beyond the deadline."""
    folders.build.mkdir(mode=0o755, parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_DEADLINE_S
    with folders.lock.open("a+") as lock:
        said_at = 0.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                if time.monotonic() > deadline:
                    raise BundleError(
                        f"process {holder} has held {folders.lock} for {LOCK_DEADLINE_S:.0f} s; see what it does"
                    ) from exc
                if time.monotonic() - said_at > 10:
                    progress.say(f"waiting for process {holder}, which builds a bundle ({folders.lock})")
                    said_at = time.monotonic()
                time.sleep(LOCK_POLL_S)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def forget_old(folders: Folders) -> None:
    """Remove bundles of other recipes that nobody asked for in a while."""
    keep = folders.bundle()
    for marker in folders.bundles.glob("*/bundle.json"):
        if marker.parent != keep and time.time() - marker.stat().st_mtime > KEEP_UNUSED_S:
            shutil.rmtree(marker.parent)


def _build_version(version: KubernetesVersion, folders: Folders, progress: Progress) -> Bundle:
    """Add one version to this recipe's bundle: packages first, images next, bundle.json last."""
    made_from = source.prepare(folders, progress)
    architecture = debs.architecture()
    binaries = build.binaries(version, folders, made_from, progress)
    crictl = build.crictl(version, folders, progress)
    path = folders.bundle()
    known = read_bundle(path).kubernetes_versions if (path / "bundle.json").is_file() else ()
    bundle = Bundle(
        path=path,
        source=f"Debian source package kubernetes {made_from}",
        kubernetes_versions=tuple(sorted({*known, str(version)}, key=KubernetesVersion.parse)),
        architecture=architecture,
    )
    repository = bundle.repository(str(version))
    for spec in debs.specs(version, binaries, crictl, folders):
        debs.build(spec, repository, architecture, folders, progress)
    progress.say(f"package repository {version.minor_name}")
    with repo.Signer(folders.bundles / "gnupg") as signer:
        repo.write_repository(repository, version.minor_name, architecture, signer)
    images = ImageBuilder(folders, architecture, progress)
    images.of_version(version, binaries, bundle.images)
    images.extra(bundle.images)
    bundle.write(recipe_key())
    if problems := problems_of(path):
        raise BundleError("the bundle just built is not whole:\n  " + "\n  ".join(problems))
    progress.say(f"{version} is in {path}")
    return bundle


def ensure(versions: Sequence[str] = DEFAULT_VERSIONS, *, progress: Progress | None = None) -> Bundle:
    """A bundle with these versions: the one KOPS_BUNDLE names, the cached one, else built (minutes) and cached.

    An interrupted build goes on where it was; one process builds at a time. Raises BundleError.
    """
    wanted = list(dict.fromkeys(versions))
    bundle = given()
    if bundle is not None:
        if lacking := [version for version in wanted if version not in bundle.kubernetes_versions]:
            has = ", ".join(bundle.kubernetes_versions)
            raise BundleError(f"KOPS_BUNDLE={bundle.path} has {has} and lacks {', '.join(lacking)}")
        return bundle
    if found := cached(wanted):
        return found
    parsed = [KubernetesVersion.parse(version) for version in wanted]
    progress = progress or Progress()
    folders = Folders.from_environment()
    with build_lock(folders, progress):
        forget_old(folders)
        for version in parsed:
            bundle = cached([str(version)]) or _build_version(version, folders, progress)
    return read_bundle(folders.bundle())


def resolve(
    versions: Sequence[str] = DEFAULT_VERSIONS,
    *,
    base_url: str = UPSTREAM_URL,
    progress: Progress | None = None,
) -> Bundle | Upstream:
    """As `ensure`, but the upstream repository comes before building when it has all these versions' minors."""
    if os.environ.get("KOPS_BUNDLE") or cached(versions):
        return ensure(versions, progress=progress)
    return upstream(versions, base_url) or ensure(versions, progress=progress)
