"""``keys`` and signed proofs as processes: what they print and exit with, what is recorded, and what stays secret."""

from __future__ import annotations

import json
import shutil
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from otel_audit import open_archive
from otel_audit.archive.administration import Administration, Own
from otel_audit.archive.leaf import ERASURE
from otel_audit.archive.removal import removal_fields, remove
from otel_audit.record import AuditRecord
from tests.archive_material import connect
from tests.command_line import HOSTILE, fill, on_terminal, otel_audit

RECORDS = 9


@pytest.fixture
def reads_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_AUDIT_READS", raising=False)


@pytest.fixture
def archive(archive_path: Path) -> Path:
    fill(archive_path, [{"user": f"user-{n}"} for n in range(RECORDS)])
    return archive_path


@pytest.fixture
def key(archive: Path, tmp_path: Path) -> Path:
    file = tmp_path / "audit.key"
    otel_audit("keys", "init", "--key", file, "--name", "example.com/audit", "--archive", archive)
    return file


def own(path: Path) -> list[AuditRecord]:
    with open_archive(path) as opened:
        return list(opened.query(admin=True, oldest_first=True))


def verifier_of(key: Path) -> str:
    return otel_audit("keys", "show", "--key", key, OTEL_AUDIT_READS="off").stdout.strip()


def label_of(verifier: str) -> str:
    """Return name and key id; the key behind them may hold a ``+``, too."""
    return "+".join(verifier.split("+")[:2])


def secret_of(key: Path) -> str:
    return key.read_text("ascii").strip().split("+", 4)[4]


def test_init(archive: Path, tmp_path: Path) -> None:
    """`keys init` makes a private file, prints the verifier alone, and the archive records it."""
    file = tmp_path / "audit.key"
    done = otel_audit("keys", "init", "--key", file, "--archive", archive)
    assert done.stderr == ""
    assert done.stdout.startswith("otel-audit+")
    assert done.stdout.count("\n") == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    genesis, created = own(archive)
    assert (genesis.type, genesis.custom["archive"]["verifier"]) == ("audit.archive.created", done.stdout.strip())
    assert (created.type, created.custom["key"]["verifier"]) == ("audit.key.created", done.stdout.strip())
    assert created.actor.type == "user"
    assert "pid" in created.custom["process"]
    before = file.read_bytes()
    again = otel_audit("keys", "init", "--key", file, "--archive", archive, status=2)
    assert "already" in again.stderr
    assert (again.stdout, file.read_bytes(), len(own(archive))) == ("", before, 2)


@pytest.mark.usefixtures("reads_recorded")
def test_show(archive: Path, key: Path) -> None:
    """`keys show` prints the verifier, from the option or the variable, and the archive records it."""
    done = otel_audit("keys", "show", "--key", key, "--archive", archive)
    assert done.stdout.startswith("example.com/audit+")
    assert done.stderr == ""
    environment = {"OTEL_AUDIT_SIGNING_KEY": str(key), "OTEL_AUDIT_ARCHIVE": str(archive)}
    assert otel_audit("keys", "show", status=0, **environment).stdout == done.stdout
    assert otel_audit("--key", key, "--archive", archive, "keys", "show").stdout == done.stdout
    assert otel_audit("keys", "--archive", archive, "--key", key, "show").stdout == done.stdout
    assert [record.type for record in own(archive)[2:]] == ["audit.key.shown"] * 4
    assert otel_audit("keys", "show", status=0, **environment, OTEL_AUDIT_READS="OFF").stdout == done.stdout
    assert len(own(archive)) == 6
    assert otel_audit("verify", "--archive", archive).stdout.endswith("faults      none\n")


@pytest.mark.usefixtures("reads_recorded")
@pytest.mark.parametrize("command", ["init", "show"])
def test_an_archive_that_cannot_be_used(archive: Path, key: Path, tmp_path: Path, command: str) -> None:
    """Without an archive, and with a file that is none, the key is there all the same, with a notice."""
    (tmp_path / "garbage.db").write_bytes(b"x" * 5_000)
    for name in ("none.db", "garbage.db"):
        file = key if command == "show" else tmp_path / f"{name}.key"
        done = otel_audit("keys", command, "--key", file, "--archive", tmp_path / name)
        assert done.stdout.strip() == verifier_of(file)
        assert done.stderr.startswith("otel-audit: not recorded in the archive: ")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "none.db").exists()


@pytest.mark.usefixtures("reads_recorded")
def test_showing_another_key_binds_nothing(archive: Path, tmp_path: Path) -> None:
    """The archive's first own record names the configured key, not just any that was shown."""
    otel_audit("keys", "init", "--key", tmp_path / "a", "--archive", tmp_path / "none.db")
    otel_audit("keys", "show", "--key", tmp_path / "a", "--archive", archive)
    assert "verifier" not in own(archive)[0].custom["archive"]


def test_rotate(archive: Path, key: Path) -> None:
    """`keys rotate` prints the new verifier, keeps the old key, and says where."""
    old, secret = verifier_of(key), secret_of(key)
    done = otel_audit("keys", "rotate", "--key", key, "--archive", archive)
    assert done.stdout.strip() == verifier_of(key) != old
    kept = f"{key}.{old.split('+')[1]}.old"
    assert done.stderr == f"otel-audit: record {RECORDS + 3} names the new key; the old one is kept as {kept}\n"
    assert secret_of(Path(kept)) == secret != secret_of(key)
    record = own(archive)[-1]
    assert (record.type, record.custom["rotation"]["verifier"]) == ("audit.key.rotated", done.stdout.strip())
    otel_audit("verify", "--archive", archive)


def test_secrets_stay_secret(archive: Path, key: Path, tmp_path: Path) -> None:
    """No secret is printed by any command, nor found in the archive."""
    secrets = [secret_of(key)]
    outputs = [otel_audit("keys", "show", "--key", key, "--archive", archive)]
    outputs.append(otel_audit("keys", "rotate", "--key", key, "--archive", archive))
    secrets.append(secret_of(key))
    outputs.append(otel_audit("prove", "1", "--key", key, "--archive", archive))
    key.chmod(0o644)
    outputs += [otel_audit("keys", name, "--key", key, "--archive", archive, status=2) for name in ("show", "rotate")]
    outputs.append(otel_audit("prove", "1", "--key", key, "--archive", archive, status=2))
    key.chmod(0o600)
    key.write_text(key.read_text("ascii").replace("PRIVATE", "PRIVATES"), "ascii")
    outputs.append(otel_audit("keys", "show", "--key", key, "--archive", archive, status=2))
    outputs.append(otel_audit("verify-proof", "-", "--key", f"@{key}", status=3))
    outputs.append(otel_audit("verify-proof", "-", "--key", key.read_text("ascii"), status=3))
    everything = "".join(done.stdout + done.stderr for done in outputs).encode()
    for file in archive.parent.iterdir():
        everything += file.read_bytes()
    for secret in secrets:
        assert secret.encode() not in everything


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("keys",), "Usage:"),
        (("keys", "bogus"), "no such command: 'bogus' (there are init, rotate, show)"),
        (("keys", "show"), "no key is named: give --key FILE, or set OTEL_AUDIT_SIGNING_KEY"),
        (("keys", "init"), "no key is named"),
        (("keys", "rotate"), "no key is named"),
        (("keys", "show", "extra"), "extra"),
        (("keys", "show", "--key", "none"), "none cannot be read"),
        (("keys", "show", "--key", "."), "directory"),
        (("keys", "show", "--key", ""), "otel-audit: "),
        (("keys", "init", "--key", ""), "otel-audit: "),
        (("keys", "rotate", "--key", ""), "otel-audit: "),
        (("keys", "rotate", "--key", "/"), "otel-audit: "),
        (("keys", "init", "--key", "none/key"), "cannot be written"),
        (("keys", "init", "--key", "x", "--name", "a b"), "without spaces and +"),
        (("keys", "init", "--key", "x", "--name", HOSTILE["ansi"]), "without spaces and +"),
        (("keys", "init", "--key", "x", "--name", ""), "without spaces and +"),
        (("keys", "rotate", "--key", "none"), "none cannot be read"),
    ],
)
def test_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
    """Wrong usage ends with 2 and a line that says what to do, and makes nothing."""
    monkeypatch.chdir(tmp_path)
    done = otel_audit(*arguments, status=2)
    assert message in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "x").exists()


def test_hostile_names_of_files(archive: Path, tmp_path: Path) -> None:
    """The name of a file cannot harm the terminal that it is shown on."""
    for name in ("ansi", "override", "lines"):
        file = tmp_path / HOSTILE[name].replace("/", "")
        otel_audit("keys", "init", "--key", file, "--archive", archive)
        text = on_terminal("keys", "rotate", "--key", file, "--archive", archive)
        text += on_terminal("keys", "init", "--key", file, "--archive", archive, status=2)
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_any_encoding_of_the_output(archive: Path, tmp_path: Path) -> None:
    """Names and signatures do no harm where standard output takes ASCII only, and proofs are the same there."""
    key, ascii_only = tmp_path / "key", {"PYTHONIOENCODING": "ascii", "OTEL_AUDIT_READS": "off"}
    otel_audit("keys", "init", "--key", key, "--name", "prüfung", "--archive", archive)
    shown = otel_audit("keys", "show", "--key", key, status=0, **ascii_only).stdout
    assert shown.startswith("pr\\xfcfung+")
    proofs = [otel_audit("prove", "1", "--key", key, "--archive", archive, status=0, **ascii_only).stdout]
    proofs.append(otel_audit("prove", "1", "--key", key, "--archive", archive).stdout)
    assert proofs[0] == proofs[1]
    assert proofs[0].isascii()
    (tmp_path / "proof").write_text(proofs[0], "ascii")
    text = otel_audit("verify-proof", tmp_path / "proof", "--key", verifier_of(key), status=0, **ascii_only).stdout
    assert "signed by pr\\xfcfung+" in text


# -- signed proofs --


def proved(archive: Path, file: Path, *options: str | Path, **changes: str) -> dict[str, Any]:
    text = otel_audit("prove", *options, "--archive", archive, status=0, **changes).stdout
    file.write_text(text, "utf-8")
    proof = json.loads(text)
    assert isinstance(proof, dict)
    return proof


def test_a_signed_proof(archive: Path, key: Path, tmp_path: Path) -> None:
    """A proof is checked with the verifier alone, given as text and as a file; nothing else is needed."""
    file, verifier = tmp_path / "proof.json", verifier_of(key)
    (tmp_path / "verifier").write_text(f"{verifier}\n", "utf-8")
    label = label_of(verifier)
    for options, changes in ((("--key", key), {}), ((), {"OTEL_AUDIT_SIGNING_KEY": str(key)})):
        proved(archive, file, "3", *options, **changes)
        for given in (verifier, f"@{tmp_path / 'verifier'}"):
            first, second = otel_audit("verify-proof", file, "--key", given).stdout.splitlines()
            assert first.startswith(f"record 3 is in the tree of {RECORDS + 2}: ")
            assert first.endswith("user-2@example.com")
            assert second == f"the tree of {RECORDS + 2} is signed by {label}"
    found = json.loads(otel_audit("verify-proof", file, "--key", verifier, "-o", "json").stdout)
    assert (found["holds"], found["record"]["user"], found["leaf"]["sequence"]) == (True, "user-2", 3)
    assert found["roots"][0]["signed_by"] == [verifier]


def test_a_signed_proof_of_consistency(archive: Path, key: Path, tmp_path: Path) -> None:
    """Both trees are signed, each by its own note, across a rotation with both verifiers."""
    file, old = tmp_path / "proof.json", verifier_of(key)
    before = proved(archive, file, "--consistency", "2", "5", "--key", key)
    text = otel_audit("verify-proof", file, "--key", old).stdout
    label = label_of(old)
    assert text == (
        f"the tree of 5 extends the one of 2\nthe tree of 2 is signed by {label}\nthe tree of 5 is signed by {label}\n"
    )
    otel_audit("keys", "rotate", "--key", key, "--archive", archive)
    proof = proved(archive, file, "--consistency", "5", "12", "--key", key)
    proof["old"]["checkpoint"] = before["new"]["checkpoint"]
    file.write_text(json.dumps(proof), "utf-8")
    assert "none of the given keys" in otel_audit("verify-proof", file, "--key", old, status=2).stderr
    otel_audit("verify-proof", file, "--key", old, "--key", verifier_of(key))
    root = f"12:{proof['new']['root']}"
    otel_audit("verify-proof", file, "--key", old, "--root", root)


def test_a_proof_that_is_not_trusted(archive: Path, key: Path, tmp_path: Path) -> None:
    """Unsigned, by a stranger, edited: the exit status tells what cannot be verified from what does not hold."""
    file, verifier = tmp_path / "proof.json", verifier_of(key)
    unsigned = proved(archive, file, "3")
    assert unsigned["checkpoint"].endswith("=\n\n")
    assert "is signed by nobody" in otel_audit("verify-proof", file, "--key", verifier, status=2).stderr
    root = f"{unsigned['tree']['size']}:{unsigned['tree']['root']}"
    assert "signed" not in otel_audit("verify-proof", file, "--key", verifier, "--root", root).stdout
    otel_audit("keys", "init", "--key", tmp_path / "b", "--name", "stranger", "--archive", tmp_path / "none.db")
    proved(archive, file, "3", "--key", tmp_path / "b")
    assert "is signed by stranger+" in otel_audit("verify-proof", file, "--key", verifier, status=2).stderr
    proof = proved(archive, file, "3", "--key", key)
    for old, new in (("\n11\n", "\n12\n"), (proof["archive_id"], "0" * 32)):
        assert old in proof["checkpoint"]
        edited = {**proof, "checkpoint": proof["checkpoint"].replace(old, new, 1)}
        file.write_text(json.dumps(edited), "utf-8")
        assert "not that of this archive" in otel_audit("verify-proof", file, "--key", verifier, status=1).stderr
    signature = proof["checkpoint"].rpartition(" ")[2]
    forged = {**proof, "checkpoint": proof["checkpoint"].replace(signature, signature[:8] + "AAAA" + signature[12:])}
    file.write_text(json.dumps(forged), "utf-8")
    assert "is wrong" in otel_audit("verify-proof", file, "--key", verifier, status=1).stderr
    hostile = {**proof, "checkpoint": proof["checkpoint"].replace("example.com/audit", "\u202eevil")}
    file.write_text(json.dumps(hostile), "utf-8")
    err = otel_audit("verify-proof", file, "--key", verifier, status=2).stderr
    assert "\u202e" not in err


@pytest.mark.parametrize("content", ["", "nonsense", "\x1b[2J", "a+b+c"])
def test_what_is_no_verifier(tmp_path: Path, content: str) -> None:
    """What is no verifier ends with 3, as text and in a file; so do a file that is not there and no key at all."""
    file = tmp_path / "verifier"
    file.write_text(content, "utf-8")
    for given in (content, f"@{file}", "@/none", "@", f"@{tmp_path}"):
        done = otel_audit("verify-proof", "proof.json", "--key", given, status=3)
        assert "'--key'" in done.stderr
        assert "\x1b" not in done.stderr
    assert "--key VKEY" in otel_audit("verify-proof", "proof.json", status=3).stderr


def test_a_proof_of_what_was_erased(archive: Path, key: Path, tmp_path: Path) -> None:
    """An erased record is proved by what is left of it, and nothing of its content comes back."""
    with Administration(archive, b"", b"") as administration:

        def make(connection: Any, _tree: Any) -> list[Own]:
            remove(connection, [(3, 3)])
            return [Own(ERASURE, "audit.records.erased", fields) for fields in removal_fields([(3, 3)])]

        administration.append(make)
    file = tmp_path / "proof.json"
    proof = proved(archive, file, "3", "--key", key)
    assert "content" not in proof
    done = otel_audit("verify-proof", file, "--key", verifier_of(key))
    assert done.stdout.startswith(f"record 3 is in the tree of {RECORDS + 3}, its content was removed: 20")
    assert done.stdout.splitlines()[0].endswith("Z user.login.success example.com")
    assert "user-2" not in done.stdout + file.read_text("utf-8")
    found = json.loads(otel_audit("verify-proof", file, "--key", verifier_of(key), "-o", "json").stdout)
    assert found["record"] is None
    assert (found["leaf"]["type"], found["leaf"]["kind"]) == ("user.login.success", 1)


def test_an_edited_record_is_not_proved(archive: Path, key: Path) -> None:
    """A key signs nothing about a record that was changed in the archive."""
    with closing(connect(archive)) as connection:
        connection.execute("UPDATE record SET type = 'user.logout' WHERE sequence = 3")
    done = otel_audit("prove", "3", "--key", key, "--archive", archive, status=2)
    assert done.stdout == ""
    assert "record 3 is not proved" in done.stderr


@pytest.mark.parametrize("command", [("prove", "1"), ("checkpoint",)], ids=" ".join)
def test_no_key_vouches_for_an_older_copy(archive: Path, key: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Where an older copy was put in place of the archive, nothing of it is signed, also where nothing is appended."""
    older = tmp_path / "older.db"
    shutil.copy(archive, older)
    fill(archive, [{"user": "later"}])
    shutil.copy(older, archive)
    done = otel_audit(*command, "--archive", archive, "--key", key, status=2)
    assert done.stdout == ""
    assert "is not the one that had" in done.stderr
