"""Kubernetes for the test bed as a folder: a package repository per minor and image archives (see README.md)."""

from tests.bundle.layout import Bundle, ImageArchive, Upstream
from tests.bundle.obtain import cached, ensure, resolve
from tests.bundle.recipe import DEFAULT_VERSIONS
from tests.bundle.shell import BundleError

__all__ = [
    "DEFAULT_VERSIONS",
    "Bundle",
    "BundleError",
    "ImageArchive",
    "Upstream",
    "cached",
    "ensure",
    "resolve",
]
