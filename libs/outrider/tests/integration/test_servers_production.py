"""The production configuration: accepted by the broker at hand, and its two walls hold."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from outrider.servers import Mosquitto, ServerError, mosquitto, ports
from outrider.testing.fixtures import unavailable

pytestmark = pytest.mark.servers
FOLDER = Path(__file__).parents[4] / "mosquitto"
SECRET = "test-secret"


class Production(Mosquitto):
    """Runs mosquitto/mosquitto.conf with its paths and ports moved into a test's folder."""

    device_port: ClassVar[int] = 0

    def configuration(self) -> str:
        text = (FOLDER / "mosquitto.conf").read_text()
        text = text.replace("/etc/mosquitto", str(self.data_dir)).replace("/var/lib/mosquitto", str(self._store()))
        text = text.replace("listener 1883 127.0.0.1", f"listener {self.port} 127.0.0.1")
        text = text.replace("\nlistener 8883\n", f"\nlistener {self.device_port} 127.0.0.1\n")
        if plugin := self.program.sqlite_plugin:
            text = re.sub(r"(?m)^global_plugin .*", f"global_plugin {plugin}", text)
        else:  # the variant for 2.0: the marked lines change places
            text = re.sub(r"(?m)^(global_plugin|plugin_opt)", r"#\1", text)
            text = re.sub(r"(?m)^#(persistence true|persistence_file|autosave)", r"\1", text)
        return text + ("user root\n" if os.geteuid() == 0 else "")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    try:
        program = mosquitto.find()
    except ServerError as error:
        unavailable("Mosquitto", error)
    passwd = program.client("mosquitto_passwd")
    if not shutil.which("openssl") or passwd is None:
        pytest.skip("needs openssl and mosquitto_passwd")
    folder = tmp_path_factory.mktemp("production")
    for user, option in (("outrider", ["-c"]), ("car-1", []), ("car-2", [])):
        subprocess.run([*passwd, *option, "-b", folder / "passwords", user, SECRET], check=True, capture_output=True)
    shutil.copy(FOLDER / "acl", folder / "acl")
    (folder / "acl").chmod(0o600)
    (folder / "tls").mkdir()
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "tls/server.key"), "-out", str(folder / "tls/server.crt")]
    subprocess.run(["openssl", *request.split(), *names, *files], check=True, capture_output=True)
    Production.device_port = ports.free_port()
    with Production(folder, program=program) as running:
        yield running


def client(broker: Production, name: str, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a client program on the devices' listener."""
    argv = broker.program.client(name)
    assert argv
    tls = ["--cafile", str(broker.data_dir / "tls/server.crt")]
    login = ["-u", user, "-P", SECRET]
    command = [*argv, "-h", "localhost", "-p", str(broker.device_port), "-V", "mqttv5", *tls, *login, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def service(broker: Production, name: str, *arguments: str) -> list[str]:
    """The command of a client program on the services' listener."""
    argv = broker.program.client(name)
    assert argv
    return [*argv, "-h", "127.0.0.1", "-p", str(broker.port), "-u", "outrider", "-P", SECRET, *arguments]


def test_configuration_is_accepted_without_a_warning(broker: Production) -> None:
    assert broker.is_ready()
    log = broker.log_path.read_text()
    # 2.1 would rather have its new plugins for these two; the options serve both versions
    expected = ("root", "password_file", "acl_file")
    warnings = [line for line in log.splitlines() if "Warning" in line and not any(word in line for word in expected)]
    assert warnings == []


def test_nobody_is_anonymous(broker: Production) -> None:
    argv = broker.program.client("mosquitto_pub")
    assert argv
    command = [*argv, "-p", str(broker.port), "-t", "fleet/v1/t/car-1/log", "-m", "x"]
    assert subprocess.run(command, capture_output=True, timeout=20, check=False).returncode != 0


def test_device_reaches_its_own_topics_only(broker: Production) -> None:
    reader = service(broker, "mosquitto_sub", "-t", "fleet/v1/t/#", "-q", "1", "-c", "-i", "svc:reader:0")
    subprocess.run([*reader, "-E"], check=True, timeout=20)
    foreign = client(broker, "mosquitto_pub", "car-1", "-q", "1", "-t", "fleet/v1/t/car-2/telemetry", "-m", "foreign")
    own = client(broker, "mosquitto_pub", "car-1", "-q", "1", "-t", "fleet/v1/t/car-1/telemetry", "-m", "own")
    assert (own.returncode, own.stderr) == (0, "")
    assert "Not authorized" in foreign.stdout + foreign.stderr
    received = subprocess.run([*reader, "-C", "1", "-W", "5"], capture_output=True, text=True, timeout=20, check=False)
    assert received.stdout == "own\n"


def test_device_cannot_take_over_a_slot(broker: Production) -> None:
    slot = service(broker, "mosquitto_sub", "-t", "fleet/v1/t/#", "-q", "1", "-c", "-i", "svc:ingest:0")
    subprocess.run([*slot, "-E"], check=True, timeout=20)
    # a clean start under the slot's client id would end its session and lose its queue
    thief = client(broker, "mosquitto_sub", "car-2", "-i", "svc:ingest:0", "-t", "fleet/v1/t/car-2/ack", "-E")
    assert thief.returncode == 0, thief.stderr
    client(broker, "mosquitto_pub", "car-1", "-q", "1", "-t", "fleet/v1/t/car-1/event", "-m", "still-here")
    received = subprocess.run([*slot, "-C", "1", "-W", "5"], capture_output=True, text=True, timeout=20, check=False)
    assert received.stdout == "still-here\n"
