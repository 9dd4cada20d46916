"""Django's changes: passwords, what the admin logs, and records that wait for the commit of a transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.hashers import make_password
from django.db import transaction
from django.test import Client
from structlog.contextvars import bound_contextvars

from otel_audit import provider
from otel_audit.errors import ArchiveError, InvalidRecord
from otel_audit.integrations.django.transactions import audit_on_commit
from otel_audit.record import AuditRecord, Target
from tests.django_project import User, log, project, records


@pytest.fixture
def _immediate(archive_path: Path) -> Iterator[None]:
    with project(archive_path):
        yield


@pytest.fixture
def _on_commit(archive_path: Path) -> Iterator[None]:
    with project(archive_path, TRANSACTIONS="on_commit"):
        yield


def changes(archive: Path) -> list[AuditRecord]:
    return [record for record in records(archive) if not record.type.startswith("user.log")]


def types(archive: Path) -> list[str]:
    return [record.type for record in changes(archive)] if archive.exists() else []


# -- Passwords --


@pytest.mark.usefixtures("_immediate")
def test_password_changes(archive_path: Path) -> None:
    """A hash that differs from the stored one is a record, however it was set; nothing else is."""
    user = User.objects.create_user("alice", password="first")
    user.first_name = "Alice"
    user.save()
    user.save(update_fields=["first_name"])
    User.objects.only("first_name").get().save()
    assert types(archive_path) == []

    user.set_password("second")
    user.save(update_fields=["first_name"])  # not the password
    assert types(archive_path) == []
    user.save()
    user.password = make_password("third")
    user.save(update_fields=["password"])
    User(pk=user.pk, username="alice", password=make_password("fourth")).save()
    user.set_unusable_password()
    user.save()
    found = changes(archive_path)
    assert [record.type for record in found] == ["user.password.changed"] * 4
    assert {(record.user, record.user_id, record.actor.id) for record in found} == {("alice", str(user.pk), "alice")}
    assert [record.custom for record in found] == [{}, {}, {}, {"reason": {"condition": "made-unusable"}}]


@pytest.mark.usefixtures("_immediate")
def test_a_renewed_hash_is_no_new_password(archive_path: Path) -> None:
    """Django renews an old hash at a login: the account was changed, the password was not."""
    user = User.objects.create_user("alice")
    User.objects.update(password=make_password("right", hasher="old"))
    client = Client()
    assert client.post("/enter", {"username": "alice", "password": "right"}).status_code == 200
    renewed = [record for record in records(archive_path) if record.type == "user.updated"]
    assert [record.custom for record in renewed] == [{"change": {"fields": ("password-hash",)}}]
    # A new password for an account with an old hash is one.
    User.objects.update(password=make_password("right", hasher="old"))
    user.refresh_from_db()
    user.set_password("new")
    user.save(update_fields=["password"])
    assert changes(archive_path)[-1].type == "user.password.changed"


@pytest.mark.usefixtures("_immediate")
def test_whose_password_and_who_changed_it(archive_path: Path) -> None:
    """The user is the account; whoever else changed it, by request or bound, is the actor."""
    User.objects.create_superuser("root", password="r")
    alice = User.objects.create_user("alice", password="first")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    passwords = {"password1": "xyzxyz12", "password2": "xyzxyz12", "usable_password": "true"}
    assert client.post(f"/admin/auth/user/{alice.pk}/password/", passwords).status_code == 302
    with bound_contextvars(user="cron"):
        alice.set_password("by a job")
        alice.save()
    found = [record for record in records(archive_path) if record.type == "user.password.changed"]
    assert [(record.user, record.actor.id) for record in found] == [("alice", "root"), ("alice", "cron")]
    assert found[0].session is not None


# -- The admin --


@pytest.mark.usefixtures("_immediate")
def test_the_admin(archive_path: Path) -> None:
    """Additions, changes and deletions, one or many at once, have target, name, fields and the administrator."""
    root = User.objects.create_superuser("root", password="r")
    client = Client()
    client.force_login(root)
    given = {"name": "editors <b>\x1b[2J"}
    assert client.post("/admin/auth/group/add/", given).status_code == 302
    assert client.post("/admin/auth/group/1/change/", {"name": "writers"}).status_code == 302
    for number in range(2):
        client.post("/admin/auth/group/add/", {"name": f"g{number}"})
    many = {"action": "delete_selected", "_selected_action": ["2", "3"], "post": "yes"}
    assert client.post("/admin/auth/group/", many).status_code == 302
    assert client.post("/admin/auth/group/1/delete/", {"post": "yes"}).status_code == 302
    found = changes(archive_path)
    told = [(record.type, record.action, record.target and record.target.id) for record in found]
    assert told[:4] == [
        ("object.created", "CREATE", "1"), ("object.updated", "UPDATE", "1"), ("object.created", "CREATE", "2"),
        ("object.created", "CREATE", "3"),
    ]  # fmt: skip
    assert sorted(told[4:6]) == [("object.deleted", "DELETE", "2"), ("object.deleted", "DELETE", "3")]
    assert told[6:] == [("object.deleted", "DELETE", "1")]
    assert {record.target and record.target.type for record in found} == {"auth.group"}
    assert {(record.user, record.user_id, record.source) for record in found} == {
        ("root", str(root.pk), "django.admin")
    }
    assert {record.session and record.session.type for record in found} == {"http"}
    assert found[1].custom == {"object": {"name": "writers"}, "change": {"fields": ("Name",)}}
    assert found[0].custom["object"]["name"] == "editors <b>\x1b[2J"


@pytest.mark.usefixtures("_immediate")
def test_odd_entries(archive_path: Path) -> None:
    """Entries of an application's own making are recorded, whatever their message, flag, object and user."""
    from django.contrib.admin.models import LogEntry
    from django.contrib.contenttypes.models import ContentType

    root = User.objects.create_user("root")
    kind = ContentType.objects.get_for_model(User)
    within = [{"changed": {"name": "line", "object": "5", "fields": ["Price"]}}, {"added": {}}, {"changed": 5}]
    messages = ["", "by hand", "[1", json.dumps(within), json.dumps([{"changed": {"fields": 7}}]), "5"]
    for message in messages:
        LogEntry.objects.create(
            user=root, content_type=kind, object_id="1", object_repr="x", action_flag=2, change_message=message
        )
    LogEntry.objects.create(user=root, object_repr="x", action_flag=9)
    assert [record.custom.get("change") for record in changes(archive_path)] == [
        None, {"text": "by hand"}, {"text": "[1"},
        {"within": ({"verb": "changed", "name": "line", "object": "5", "fields": ("Price",)},)},
        None, {"text": "5"}, None,
    ]  # fmt: skip
    assert changes(archive_path)[-1].target == Target("")
    entry = LogEntry(user_id=4711, object_repr="x", action_flag=3, object_id="8")
    with transaction.atomic():
        LogEntry.objects.bulk_create([entry])
        transaction.set_rollback(True)
    assert (changes(archive_path)[-1].user, changes(archive_path)[-1].actor.id) == (None, "4711")


@pytest.mark.usefixtures("_immediate")
def test_a_change_that_cannot_be_recorded_is_not_made() -> None:
    """At once means before the commit: without the record the transaction is rolled back."""
    root = User.objects.create_superuser("root", password="r")
    client = Client()
    client.force_login(root)
    provider.current_provider().shutdown()
    with pytest.raises(ArchiveError):
        client.post("/admin/auth/group/add/", {"name": "editors"})
    from django.contrib.auth.models import Group

    assert not Group.objects.exists()


# -- Transactions --


@pytest.mark.usefixtures("_on_commit")
def test_a_rolled_back_change_leaves_no_record(archive_path: Path) -> None:
    """What is undone, also by a savepoint, is not recorded; what is committed is, after the commit and in order."""
    alice = User.objects.create_user("alice", password="first")

    def change(password: str) -> None:
        alice.set_password(password)
        alice.save()

    @transaction.atomic
    def undone() -> None:
        change("undone")
        raise LookupError

    with pytest.raises(LookupError):
        undone()
    assert types(archive_path) == []
    with transaction.atomic():
        log.audit("immediate")
        change("kept")
        with pytest.raises(LookupError):
            undone()
        audit_on_commit(log, "second", custom={"x": {"y": 1}})
        assert types(archive_path) == ["immediate"]
    assert types(archive_path) == ["immediate", "user.password.changed", "second"]
    change("outside")
    assert types(archive_path)[3:] == ["user.password.changed"]
    immediate, changed, second, _ = changes(archive_path)
    assert changed.time < second.time
    assert immediate.observed < changed.observed < second.observed


@pytest.mark.usefixtures("_on_commit")
def test_values_are_those_of_the_call(archive_path: Path) -> None:
    """The record is built when it is asked for, not at the commit; a wrong call raises there."""
    with transaction.atomic():
        with bound_contextvars(user="alice", request_id="r-1"):
            audit_on_commit(log, "bound")
        with pytest.raises(InvalidRecord):
            audit_on_commit(log, "")
    (record,) = changes(archive_path)
    assert (record.user, record.custom) == ("alice", {"context": {"request_id": "r-1"}})


@pytest.mark.usefixtures("_on_commit")
def test_other_functions_keep_no_record_from_being_made(archive_path: Path) -> None:
    """Records are made before what an application wants to do after the commit, even where that came first."""
    called: list[str] = []

    def fail() -> None:
        called.append("fail")
        raise LookupError

    @transaction.atomic
    def work() -> None:
        transaction.on_commit(fail)
        audit_on_commit(log, "one")
        transaction.on_commit(lambda: called.append("never"))
        audit_on_commit(log, "two")

    with pytest.raises(LookupError):
        work()
    assert (types(archive_path), called) == (["one", "two"], ["fail"])


@pytest.mark.usefixtures("_on_commit")
def test_a_record_that_fails_after_the_commit(archive_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The change stays, all records are tried, the error comes out of the block, and is in the log in any case."""
    from django.contrib.auth.models import Group

    @transaction.atomic
    def work() -> None:
        Group.objects.create(name="kept")
        audit_on_commit(log, "one")
        audit_on_commit(log, "two")
        provider.current_provider().shutdown()

    log.audit("first")
    with pytest.raises(ArchiveError):
        work()
    assert Group.objects.filter(name="kept").exists()
    assert caplog.text.count("was committed, and could not be recorded") == 2


def test_the_failure_policy_holds_after_the_commit(archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With policy `log` a record that fails after the commit raises nothing."""
    with project(archive_path, TRANSACTIONS="on_commit", ON_FAILURE="log"):
        log.audit("first")
        writer = provider.current_provider().writer

        def full(*_: Any) -> None:
            raise ArchiveError("no space left")

        with transaction.atomic():
            audit_on_commit(log, "one")
            monkeypatch.setattr(writer, "write", full)
        monkeypatch.undo()
        assert types(archive_path) == ["first"]


@pytest.mark.usefixtures("_on_commit")
def test_manual_transactions_are_recorded_at_once(archive_path: Path) -> None:
    """With autocommit off nobody tells of the commit: better a record too many than none."""
    transaction.set_autocommit(False)
    try:
        audit_on_commit(log, "manual")
        assert types(archive_path) == ["manual"]
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


@pytest.mark.usefixtures("_on_commit")
def test_logins_and_refusals_do_not_wait(archive_path: Path) -> None:
    """What was tried was tried: a failed login within a transaction that is rolled back is recorded."""
    from django.contrib.auth import authenticate

    @transaction.atomic
    def work() -> None:
        assert authenticate(None, username="mallory", password="x") is None
        raise LookupError

    with pytest.raises(LookupError):
        work()
    assert [record.type for record in records(archive_path)] == ["user.login.failure"]
