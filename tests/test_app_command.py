"""`interp-arith app`: what it refuses, each in one line; what it imports before a page is drawn."""

import gc
import socket

import pytest

from interp_arith.cli import main
from interp_arith.commands import app
from interp_arith.commands.app import HOMES, is_warm, warm


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-folder"], "no-such-folder does not exist"),
        (["--port", "0"], "port 0; allowed: 1 to 65535"),
        (["--port", "99999"], "port 99999; allowed: 1 to 65535"),
        (["--address", "no.such.host.invalid"], "cannot be listened on"),
    ],
)
def test_a_wrong_request_is_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["app", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1


def test_a_file_is_no_folder_of_runs(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["app", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder of runs" in capsys.readouterr().err


def test_a_port_in_use_is_refused_with_another(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        assert main(["app", "--port", str(taken.getsockname()[1])]) == 2
    assert "give another, such as --port 8502" in capsys.readouterr().err


def test_the_explorer_lies_beside_the_package():
    assert any(home.exists() for home in HOMES)


@pytest.mark.parametrize(("address", "at"), [("localhost", "localhost"), ("0.0.0.0", "localhost")])
def test_it_says_where_it_answers_and_advertises_nothing(monkeypatch, capsys, tmp_path, address, at):
    given = {}
    monkeypatch.setattr(app.bootstrap, "load_config_options", given.update)
    monkeypatch.setattr(app.bootstrap, "run", lambda *_, **__: None)
    monkeypatch.setattr(app.sys, "setswitchinterval", lambda _: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(app.FOLDER, "")
    app.serve(tmp_path, 8765, address, browser=True)
    told = capsys.readouterr().err
    assert f"http://{at}:8765: explorer of {tmp_path}" in told
    assert told.count("\n") == 1
    assert given["logger_hideWelcomeMessage"] is True
    assert given["server_address"] == address


def test_what_is_imported_ahead_is_left_out_of_garbage_collections():
    frozen = gc.get_freeze_count()
    assert not is_warm(["errors"])
    warm(["errors"])
    assert is_warm(["errors"])
    assert gc.get_freeze_count() > frozen
    assert gc.isenabled()


def test_garbage_is_collected_again_where_an_import_fails():
    with pytest.raises(ModuleNotFoundError):
        warm(["no_such_module"])
    assert gc.isenabled()
    assert not is_warm(["no_such_module"])
