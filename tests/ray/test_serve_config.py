"""The application's arguments and the deployment file; no cluster is started."""

from pathlib import Path

import pytest
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from serve.app import Arguments, app
from serve.deployments import deployment_options
from serve.haproxy import flags
from streamrec.config import ServingConfig, parse_config
from streamrec.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_the_deployment_file_is_valid_and_names_arguments_that_the_application_takes():
    file = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text(encoding="utf-8"))
    ServeDeploySchema.model_validate(file)
    (application,) = file["applications"]
    assert application["import_path"] == "serve.app:app"
    assert application["args"].keys() <= Arguments.model_fields.keys()


def test_an_unknown_argument_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ConfigError, match=r"argument stat .* allowed config, log, state"):
        app({"stat": "x"})


def test_a_student_that_the_configuration_lacks_is_refused_and_those_that_it_has_are_named(tmp_path):
    path = tmp_path / "streamrec.toml"
    path.write_text(f'state = "{tmp_path}/state"\n[students.edge]\ndim = 8\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"there is no such student, got 'egde', allowed default, edge"):
        app({"config": str(path), "student": "egde"})
    (settings,) = app({"config": str(path), "student": "edge", "log": "none"})._bound_deployment.init_args
    assert settings.student == "edge"


def test_the_application_takes_its_configuration_from_the_arguments(tmp_path):
    path = tmp_path / "streamrec.toml"
    path.write_text('state = "runs/here"\n[serving]\nnum_replicas = 3\n', encoding="utf-8")
    built = app({"config": str(path), "log": "kafka://127.0.0.1:9092"})
    deployment = built._bound_deployment
    (settings,) = deployment.init_args
    assert deployment.num_replicas == 3
    assert (str(settings.log_address), Path(settings.state_url).is_absolute()) == ("kafka://127.0.0.1:9092", True)
    assert settings.registry_url == f"{settings.state_url}/registry"


def test_the_application_follows_the_log_of_its_configuration_as_every_job_does(tmp_path):
    def log(broker: str, **given: str) -> str:
        path = tmp_path / "streamrec.toml"
        path.write_text(f'state = "{tmp_path}/state"\n[log]\nbroker = "{broker}"\n', encoding="utf-8")
        (settings,) = app({"config": str(path), **given})._bound_deployment.init_args
        return str(settings.log_address)

    assert log("kafka.example:9092") == "kafka://kafka.example:9092"
    assert log(f"local://{tmp_path}/files") == f"local://{tmp_path}/files"
    assert log("local") == f"local://{tmp_path}/state/log"
    assert log("local", state=str(tmp_path / "other")) == f"local://{tmp_path}/other/log"
    assert log("kafka.example:9092", log=f"local://{tmp_path}/files") == f"local://{tmp_path}/files"
    assert log("kafka.example:9092", log="none") == "None"
    with pytest.raises(ConfigError, match=r"there is no log to follow.*got log.broker = auto, and none of .*/state runs here.*or give log=none"):
        log("auto")
    (tmp_path / "state" / "log").mkdir(parents=True)
    assert log("auto") == f"local://{tmp_path}/state/log"


def test_more_replicas_are_allowed_where_the_configuration_names_a_most():
    fixed = deployment_options(ServingConfig(num_replicas=3), 0.2)
    assert (fixed["num_replicas"], "autoscaling_config" in fixed) == (3, False)
    scaled = deployment_options(ServingConfig(num_replicas=2, max_replicas=6, busy_share=0.5, upscale_delay_s="5s", downscale_delay_s="60s"), 0.2)
    assert "num_replicas" not in scaled
    found = AutoscalingConfig.model_validate(scaled["autoscaling_config"])  # As Serve reads it.
    assert (found.min_replicas, found.max_replicas, found.policy.is_default_policy_function()) == (2, 6, False)
    assert (found.upscale_delay_s, found.downscale_delay_s) == (5.0, 60.0)


def test_a_most_below_the_least_is_refused_with_both():
    with pytest.raises(ConfigError, match=r"serving\.max_replicas is not valid, got 2, allowed 0, or at least num_replicas = 3"):
        parse_config({"serving": {"num_replicas": 3, "max_replicas": 2}})


def test_a_request_without_any_answer_is_sent_to_another_replica_however_serve_is_started(tmp_path):
    file = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text(encoding="utf-8"))
    for given in (file["controller_options"]["runtime_env"]["env_vars"], flags(tmp_path)):
        assert given["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure empty-response"
        assert int(given["RAY_SERVE_HAPROXY_RETRIES"]) > 2 * 3  # Two dead servers take three tries each.
