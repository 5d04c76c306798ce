"""Keys on a running server: what stands in serving.keys_file reaches the replicas, and headers reach them through the proxy."""

import http.client
import json
import time

import pytest

from serve import launch as launcher
from serve.app import app
from streamrec.client import Client, Refused
from streamrec.config import parse_config
from streamrec.config.keys import digest_of


def write_keys(folder, key=b"k-web"):
    table = f'[web]\nsha256 = "{digest_of(key)}"\nscopes = ["read"]\nnamespaces = ["shop"]\n'
    (folder / "keys.toml").write_text(table, encoding="utf-8")
    return str(folder / "keys.toml")


def test_a_running_server_asks_for_keys(ray_cluster, tmp_path):
    config = parse_config({"serving": {"port": 0, "num_replicas": 1, "keys_file": write_keys(tmp_path), "cors_origins": ["https://shop.example"]}})
    host, port = launcher.launch(config).removeprefix("http://").split(":")

    def ask(method, path, headers):
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    try:
        assert ask("GET", "/healthz", {})[0] == 200
        status, headers, body = ask("GET", "/v1/models", {})
        assert (status, headers["www-authenticate"], json.loads(body)["error"]["got"]) == (401, "Bearer", "no key")
        assert ask("GET", "/v1/models", {"Authorization": "Bearer k-web"})[0] == 200
        assert ask("GET", "/v1/users/u1?namespace=other", {"X-API-Key": "k-web"})[0] == 403
        assert ask("POST", "/v1/models:rollback", {"X-API-Key": "k-web"})[0] == 403
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        status, headers, _ = ask("OPTIONS", "/v1/recommend", asked)
        assert (status, headers["access-control-allow-origin"]) == (204, "https://shop.example")
        write_keys(tmp_path, b"k-new")
        until = time.monotonic() + 20
        while ask("GET", "/v1/models", {"X-API-Key": "k-new"})[0] != 200:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert ask("GET", "/v1/models", {"X-API-Key": "k-web"})[0] == 401
        with Client(f"http://{host}:{port}", "k-new") as client:
            assert (client.models().live, client.healthz().status) == (None, "ok")
            assert all(client.get_user(user, namespace="shop").user_id == user for user in ("..", "a/b", "é ?#", "%2F"))
            with pytest.raises(Refused, match="namespace"):
                client.get_user("u1", namespace="other")
    finally:
        launcher.shutdown()


def test_the_application_of_a_deployment_reads_the_keys(tmp_path):
    path = tmp_path / "streamrec.toml"
    path.write_text(f'state = "{tmp_path}/state"\n[serving]\nkeys_file = "{write_keys(tmp_path)}"\n', encoding="utf-8")
    (settings,) = app({"config": str(path), "log": "none"})._bound_deployment.init_args
    assert (settings.keys["web"].namespaces, settings.keys_file) == (("shop",), str(tmp_path / "keys.toml"))
