"""Tests, lab, bundle and demo: they start system programs, which the PATH of users, su and cron leaves out."""

import os

for _folder in ("/usr/sbin", "/sbin"):
    if _folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), _folder]))
