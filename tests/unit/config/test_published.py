"""What is made from the models: the schema, the reference page, the examples."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from kops_py.config.cluster import read_cluster
from kops_py.config.init import Topology, render_example, write_example
from kops_py.config.reference import reference
from kops_py.config.schema import json_schema
from kops_py.model.errors import ConfigError
from kops_py.model.version import NEWEST_MINOR
from tests.unit.config.files import CLUSTER

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "inventories"


def test_the_schema_is_one_and_describes_every_key() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    for name, body in [("", schema), *schema["$defs"].items()]:
        for key, one in body["properties"].items():
            assert "description" in one or "$ref" in one, f"{name}.{key}"
        assert body["additionalProperties"] is False


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/cluster.yaml")), ids=lambda p: p.parent.name)
def test_the_schema_accepts_the_examples(path: Path) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))


def test_the_schema_refuses_what_we_refuse() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    good = yaml.safe_load(CLUSTER)
    validator.validate(good)
    for path, value in [("kind", "X"), ("other", 1), ("ssh", {"becomePassword": "plain"}), ("timeouts", {"x": 1})]:
        assert not validator.is_valid({**good, path: value}), path


def test_the_reference_page_is_current() -> None:
    assert (ROOT / "docs" / "cluster-yaml.md").read_text() == reference(), (
        "run: python -m kops_py.config.reference > docs/cluster-yaml.md"
    )


def test_the_smallest_file_of_the_reference_is_accepted(tmp_path: Path) -> None:
    text = reference().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "cluster.yaml").write_text(text)
    (tmp_path / "cni.yaml").write_text("")
    assert read_cluster(tmp_path / "cluster.yaml").name == "prod"


@pytest.mark.parametrize("topology", list(Topology))
def test_the_examples_in_the_repository_are_what_init_writes(topology: Topology, tmp_path: Path) -> None:
    rendered = render_example(topology, version=f"v1.{NEWEST_MINOR}.0", name=str(topology))
    for name, text in rendered.items():
        assert (EXAMPLES / topology / name).read_text() == text
    written = write_example(tmp_path / topology, topology)
    assert [p.read_text() for p in written] == list(rendered.values())


@pytest.mark.parametrize("folder", ["Prod Cluster", "2024", "true", "__", "x" * 100])
def test_any_folder_gives_a_good_name(tmp_path: Path, folder: str) -> None:
    write_example(tmp_path / folder, "single")
    assert read_cluster(tmp_path / folder / "cluster.yaml").name


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="is not overwritten") as caught:
        write_example(tmp_path, "stacked")
    assert caught.value.where == str(tmp_path / "cluster.yaml")
    assert not (tmp_path / "hosts.yaml").exists()


def test_what_init_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown topology"):
        write_example(tmp_path, "star")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_example(tmp_path / "file", "single")


def test_importing_the_reader_is_cheap() -> None:
    code = (
        "import sys, kops_py.config.load, kops_py.config.init, kops_py.config.secrets, kops_py.config.schema\n"
        "print([m for m in ('pydantic', 'yaml', 'jinja2', 'ansible') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
