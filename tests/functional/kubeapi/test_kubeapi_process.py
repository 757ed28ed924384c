"""The embedded API as a process: what a kill -9 leaves, inherited sockets, tokens, TLS, and its end."""

import json
import re
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.certificates import Certificates
from fakes.private_kubeapi import KubeApi

MAPS = "/api/v1/namespaces/default/configmaps"
Start = Callable[..., KubeApi]


def make(api: KubeApi, name: str) -> int:
    return int(api.call("POST", MAPS, {"metadata": {"name": name}})["metadata"]["resourceVersion"])


def events(api: KubeApi, revision: int) -> list[tuple[str, Any]]:
    """What a watch of one second from a revision sees: type and name, or code."""
    url = f"{api.url}{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={revision}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = [json.loads(line) for line in answer]
    return [(e["type"], e["object"].get("code") or e["object"]["metadata"]["name"]) for e in found]


def test_nothing_is_lost_by_kill_9(own_api: KubeApi) -> None:
    api = own_api
    first = make(api, "a")
    for number in range(50):
        make(api, f"m{number}")
    uid = api.call("GET", f"{MAPS}/a")["metadata"]["uid"]
    before = api.call("GET", MAPS)
    api.stop(signal.SIGKILL)
    api.start()
    after = api.call("GET", MAPS)
    assert after == before
    assert after["items"][0]["metadata"]["uid"] == uid
    assert make(api, "later") == int(before["metadata"]["resourceVersion"]) + 1
    assert len(events(api, first)) == 51, "a watch from before the death goes on"
    api.stop(signal.SIGKILL)
    api.start()
    assert events(api, first) == [("ERROR", 410)], "the journal was compacted at the second start"
    assert api.call("GET", MAPS)["metadata"]["resourceVersion"] == str(first + 51)


def test_kill_9_in_the_middle_of_writes_keeps_all_that_was_answered(own_api: KubeApi) -> None:
    api = own_api
    script = (
        "import json,sys,urllib.request\n"
        "for n in range(10000):\n"
        "    body = json.dumps({'metadata': {'name': f'w{n}'}}).encode()\n"
        "    head = {'Content-Type': 'application/json'}\n"
        "    urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=body, headers=head)).read()\n"
        "    print(n, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script, api.url + MAPS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert writer.stdout is not None
    for _ in range(100):
        assert writer.stdout.readline()
    api.stop(signal.SIGKILL)
    answered = 100 + len(writer.stdout.readlines())
    writer.wait(10)
    writer.stdout.close()
    api.start()
    kept = {item["metadata"]["name"] for item in api.call("GET", MAPS)["items"]}
    assert {f"w{n}" for n in range(answered)} <= kept
    assert len(kept) <= answered + 1


def test_a_deletion_of_a_namespace_survives(own_api: KubeApi) -> None:
    api = own_api
    api.ok("create", "namespace", "red")
    api.ok("run", "web", "-n", "red", "--image=x:1")
    path = "/api/v1/namespaces/red/pods/web"
    api.call("POST", f"{path}/binding", {"target": {"name": "node1"}})
    api.ok("delete", "namespace", "red", "--wait=false")
    api.stop(signal.SIGKILL)
    api.start()
    assert api.call("GET", "/api/v1/namespaces/red")["status"]["phase"] == "Terminating"
    api.call("DELETE", f"{path}?gracePeriodSeconds=0")
    api.ok("wait", "--for=delete", "namespace/red", "--timeout=10s")


def test_sigterm_ends_it_within_a_second_with_watches_open(own_api: KubeApi) -> None:
    url = f"{own_api.url}{MAPS}?watch=1"
    with urllib.request.urlopen(url, timeout=10) as answer:
        own_api.fault(action="hang", path="/never")
        make(own_api, "a")
        assert json.loads(answer.readline())["type"] == "ADDED"
        assert own_api.stop() < 1.5
        assert answer.read() == b"", "the watch ends well"
    assert own_api.process is not None
    assert own_api.process.returncode == 0
    assert "Traceback" not in own_api.log.read_text()


def test_an_inherited_socket_keeps_the_address_over_restarts(started: Start) -> None:
    api = started(inherit=True)
    make(api, "a")
    api.stop(signal.SIGKILL)
    request = urllib.request.Request(f"{api.url}{MAPS}/a")
    api.start()
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["metadata"]["name"] == "a"


def status_of(api: KubeApi, token: str = "", context: ssl.SSLContext | None = None, path: str = MAPS) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(api.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as err:
        return err.code


def test_a_token_is_asked_for_and_read_again_when_it_changes(started: Start, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    api = started("--token", str(file))
    assert [status_of(api), status_of(api, "wrong"), status_of(api, "first")] == [401, 401, 200]
    assert status_of(api, path="/readyz") == 200
    file.write_text("second-one\n")
    assert [status_of(api, "first"), status_of(api, "second-one")] == [401, 200]
    file.unlink()
    assert status_of(api, "second-one") == 401


def test_tls_with_client_certificates(started: Start, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    client = certificates.issue("client", common_name="agent")
    stranger = Certificates(tmp_path, "other").issue("client", common_name="agent")
    server = certificates.server
    options = [
        "--tls-cert",
        str(server.cert),
        "--tls-key",
        str(server.key),
        "--client-ca",
        str(certificates.ca),
    ]
    api = started(*options, scheme="https")
    ca = f"--certificate-authority={certificates.ca}"
    pair = (f"--client-certificate={client.cert}", f"--client-key={client.key}")
    assert "kube-system" in api.ok("get", "namespaces", ca, *pair)
    assert "must be logged in to the server" in api.refused("get", "namespaces", ca, "--token=any")
    wrong = (f"--client-certificate={stranger.cert}", f"--client-key={stranger.key}")
    # Whether kubectl reads the alert or meets the closed connection first is a race.
    refused = api.refused("get", "namespaces", ca, *wrong)
    assert re.search("Unable to connect to the server|connection reset by peer|EOF|broken pipe", refused)
    assert "x509" in api.refused("get", "namespaces", *pair)


def test_tls_with_a_certificate_or_a_token(started: Start, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    client = certificates.issue("client", common_name="agent")
    server = certificates.server
    token = tmp_path / "token"
    token.write_text("secret")
    options = [
        "--tls-cert",
        str(server.cert),
        "--tls-key",
        str(server.key),
        "--client-ca",
        str(certificates.ca),
    ]
    api = started(*options, "--token", str(token), scheme="https")
    bare = ssl.create_default_context(cafile=str(certificates.ca))
    named = ssl.create_default_context(cafile=str(certificates.ca))
    named.load_cert_chain(client.cert, client.key)
    found = [status_of(api, "", bare), status_of(api, "secret", bare), status_of(api, "", named)]
    assert found == [401, 200, 200]
    ca = f"--certificate-authority={certificates.ca}"  # kubectl sends a token over TLS only
    assert "kube-system" in api.ok("get", "namespaces", ca, "--token=secret")
    assert "must be logged in to the server" in api.refused("get", "namespaces", ca, "--token=wrong")


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        ([], "nothing to listen on", 1),
        (["--listen", "nonsense"], "'nonsense' is not ADDRESS:PORT", 2),
        (["--listen", "203.0.113.1:1"], "cannot listen on 203.0.113.1:1", 1),
        (["--listen", "127.0.0.1:0", "--service-cidr", "10.0.0.1/8"], "is no IPv4 network", 2),
        (["--listen", "127.0.0.1:0", "--service-cidr", "10.0.0.0/30"], "too small for Services", 2),
        (["--listen", "127.0.0.1:0", "--tls-cert", "x"], "give certificate and key", 1),
        (
            ["--listen", "127.0.0.1:0", "--tls-cert", "x", "--tls-key", "y"],
            "give PEM files that belong together",
            1,
        ),
        (["--listen", "127.0.0.1:0", "--journal", "/proc/none/x"], "/proc/none/x", 1),
    ],
)
def test_what_cannot_be_started_says_why(options: list[str], message: str, code: int) -> None:
    command = [sys.executable, "-m", "k8s_ovs.lab.kubeapi", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), (
        done.stderr
    )


def test_a_thousand_pods_are_listed_fast(own_api: KubeApi) -> None:
    pods = "/api/v1/namespaces/default/pods"
    spec = {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]}
    lines = [
        json.dumps(
            {
                "rv": n,
                "of": "pods",
                "set": {"metadata": {"name": f"p{n}", "namespace": "default"}, "spec": spec},
            }
        )
        for n in range(100, 1100)
    ]
    own_api.stop()
    with own_api.journal.open("a") as journal:
        journal.write("\n".join(lines) + "\n")
    own_api.start()
    took = own_api.call("GET", pods)
    assert len(took["items"]) == 1000
    code = (
        "import sys,time,urllib.request\n"
        "best = 9.0\n"
        "for _ in range(5):\n"
        "    began = time.perf_counter()\n"
        "    urllib.request.urlopen(sys.argv[1]).read()\n"
        "    best = min(best, time.perf_counter() - began)\n"
        "print(best)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, own_api.url + pods], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.1
