"""python -m tests.bundle: ensure, path, check."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bundle import obtain
from tests.bundle.layout import Bundle, Upstream, problems_of, read_bundle
from tests.bundle.recipe import DEFAULT_VERSIONS, Folders
from tests.bundle.shell import BundleError, Progress

EXIT_NO_BUNDLE = 1


def _versions(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bundle", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    ensure = verbs.add_parser("ensure", help="get a bundle, building it if need be; its path is the last line")
    path = verbs.add_parser("path", help="print where the bundle is; exit 1 when there is none yet")
    check = verbs.add_parser("check", help="tell whether a folder is a bundle")
    check.add_argument("folder", type=Path)
    check.add_argument("--read-all", action="store_true", help="also read every image archive")
    for verb in (ensure, path):
        verb.add_argument("--versions", type=_versions, default=list(DEFAULT_VERSIONS), metavar="V,V...")
    for verb in (ensure, path, check):
        verb.add_argument("-o", "--output", choices=("text", "json"), default="text")
    ensure.add_argument("--upstream-url", default=obtain.UPSTREAM_URL)
    ensure.add_argument("--no-upstream", action="store_true", help="do not ask the upstream repository")
    return parser


def _as_json(found: Bundle | Upstream) -> dict[str, Any]:
    if isinstance(found, Upstream):
        return {"kind": "upstream", "base_url": found.base_url, "minors": list(found.minors)}
    return {
        "kind": "bundle",
        "path": str(found.path),
        "source": found.source,
        "architecture": found.architecture,
        "kubernetes_versions": list(found.kubernetes_versions),
        "repositories": {minor: str(found.repository(minor)) for minor in found.minors},
        "images": {
            version: [{**archive.to_json(), "path": str(archive.path)} for archive in found.image_archives(version)]
            for version in found.kubernetes_versions
        },
        "extra_images": [{**archive.to_json(), "path": str(archive.path)} for archive in found.extra_images],
    }


def _print(found: Bundle | Upstream, output: str) -> None:
    if output == "json":
        print(json.dumps(_as_json(found), indent=2))
    elif isinstance(found, Upstream):
        print(f"upstream answers for {', '.join(found.minors)}: no bundle is needed\n{found.base_url}")
    else:
        print(found.path)


def _check(folder: Path, *, read_all: bool, output: str) -> int:
    problems = problems_of(folder, read_all=read_all)
    if output == "json":
        print(json.dumps({"folder": str(folder), "problems": problems}, indent=2))
    else:
        print("\n".join(problems) or f"{folder}: a bundle with {', '.join(read_bundle(folder).kubernetes_versions)}")
    return EXIT_NO_BUNDLE if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 done, 1 no bundle (the reason is on standard error), 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.verb == "check":
            return _check(arguments.folder, read_all=arguments.read_all, output=arguments.output)
        if arguments.verb == "path":
            found = obtain.cached(arguments.versions)
            if found is None:
                wanted = ", ".join(arguments.versions)
                folder = Folders.from_environment().bundle()
                raise BundleError(f"no bundle with {wanted} in {folder}; type: python -m tests.bundle ensure")
            _print(found, arguments.output)
            return 0
        get = obtain.ensure if arguments.no_upstream else obtain.resolve
        options = {} if arguments.no_upstream else {"base_url": arguments.upstream_url}
        _print(get(arguments.versions, progress=Progress(), **options), arguments.output)
    except BundleError as exc:
        print(f"bundle: {exc}", file=sys.stderr)
        return EXIT_NO_BUNDLE
    except KeyboardInterrupt:
        print("bundle: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
