"""Signed registries: each attack that TUF's specification lists is a test of that name; then keys, clocks and files."""

import json
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.http_server import FaultServer
from zoo.errors import IntegrityError, InvalidFileError, StoreError, TransportError, UsageError
from zoo.formats import registry as registries
from zoo.formats import signature as signatures
from zoo.formats.reference import Reference
from zoo.formats.signature import TAG, Signature, Signed
from zoo.store import catalogue, signed, transport
from zoo.store import check_apart as apart
from zoo.store.publish import publish
from zoo.store.signing import Change, part_in, sign
from zoo.store.store import Store
from zoo.system.ed25519 import SigningKey, parse_key

NOW = 1_800_000_000  # January 2027
DAY = 86400


@pytest.fixture
def clock(monkeypatch):
    """The time on this machine, which a test may change: `clock[0]`."""
    times = [NOW]
    monkeypatch.setattr("time.time", lambda: float(times[0]))
    return times


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, clock):
    """An empty store, a default registry with `inside`, no plugins, short waits."""
    default = tiny.registry(tmp_path / "default", tiny.bundle(tmp_path / "b" / "inside", name="inside"))
    monkeypatch.setattr("zoo.system.places.default_folder", lambda: default)
    monkeypatch.setattr("zoo.plugins.registries", list, raising=False)
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(signed, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(apart, "check_apart", lambda folder: [])
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("bundles")
    return [tiny.bundle(root / f"{n}", version=n, seed=n) for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def keys() -> list[SigningKey]:
    return [SigningKey.new() for _ in range(5)]


class Lab:
    """A signed registry called `lab`, on a server or in a folder, whose publisher and attackers change the files."""

    def __init__(self, folder: Path, bundles: list[Path], keys: list[SigningKey], server: FaultServer | None):
        self.folder, self.bundles, self.keys = folder, bundles, keys
        self.place = server.url() if server else str(folder)
        self.server = server

    def publish(self, version: int, *signers: int) -> None:
        publish(self.bundles[version - 1], self.folder, keys=[self.keys[n] for n in signers or (0,)])

    def sign(self, *signers: int, name: str | None = None, trust: tuple[int, ...] = (), **change):
        trusted = tuple(self.keys[n].public for n in trust) or None
        return sign(self.folder, [self.keys[n] for n in signers or (0,)], Change(name=name, keys=trusted, **change))

    def files(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in ("registry.yaml", "registry.sig")}

    def serves(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            (self.folder / name).write_bytes(data)

    def add(self, *known: int, name: str = "lab") -> None:
        catalogue.add(name, self.place, keys=[self.keys[n].public for n in known])

    def versions(self, *, refresh: bool = True) -> list[int]:
        (found,) = (r for r in catalogue.registries(refresh=refresh) if r.name == "lab")
        return sorted(found.document.models["tiny"].versions)


@pytest.fixture(params=["server", "folder"])
def lab(request, tmp_path, bundles, keys):
    """With one version of a model, signed by the first key, serial 1."""
    folder = tiny.registry(tmp_path / "lab", bundles[0])
    if request.param == "folder":
        lab = Lab(folder, bundles, keys, None)
        lab.sign(name="lab")
        yield lab
        return
    with FaultServer(folder) as server:
        lab = Lab(folder, bundles, keys, server)
        lab.sign(name="lab")
        yield lab


def refused(lab: Lab, caplog, reason: str, versions: list[int]) -> None:
    """The registry as it is now is refused for that reason, each time, and its last copy is used."""
    for _ in range(2):
        caplog.clear()
        assert lab.versions() == versions
        (line,) = caplog.messages
        assert line.startswith("using the last copy of the registry 'lab', read on ") and reason in line
        assert line.isprintable()


# --- What is right ----------------------------------------------------------------------------------------------------


def test_a_signed_registry_is_read_and_its_keys_are_kept(lab, keys, caplog):
    lab.add()
    (line,) = caplog.messages
    assert line == (
        f"the registry 'lab' is signed, and from now on must be, by {keys[0].public}: compare that with what its"
        " publisher says"
    )
    caplog.clear()
    lab.publish(2)
    assert lab.versions() == [1, 2] and lab.versions(refresh=False) == [1, 2]
    lab.sign()  # renewed
    assert lab.versions() == [1, 2] and caplog.messages == []
    known = catalogue.signature("lab", catalogue.added()["lab"])
    assert (known.registry, known.serial, known.keys, known.threshold) == ("lab", 3, (keys[0].public,), 1)


def test_a_key_given_beforehand_is_asked_for_at_the_first_use(lab, keys, caplog, home):
    with pytest.raises(IntegrityError, match=f"is not signed by {keys[1].public}: it has {keys[0].public}"):
        lab.add(1)
    with pytest.raises(IntegrityError, match="is not signed by"):
        lab.add(0, 1)
    assert catalogue.added() == {} and not list(home.rglob("*.signed.json"))
    lab.add(0)
    assert caplog.messages == [] and lab.versions() == [1]
    lab.add(0)
    with pytest.raises(UsageError, match=f"is known with other keys: {keys[0].public}"):
        lab.add(1)


def test_a_key_for_a_registry_without_a_signature_is_refused(lab):
    (lab.folder / "registry.sig").unlink()
    with pytest.raises(IntegrityError, match="a key was given, but it is not signed"):
        lab.add(0)
    assert catalogue.added() == {}


def test_a_registry_that_was_never_signed_needs_nothing(lab, caplog):
    (lab.folder / "registry.sig").unlink()
    lab.add()
    assert lab.versions() == [1] and caplog.messages == []
    lab.sign(name="lab")
    assert lab.versions() == [1] and "is signed, and from now on must be" in caplog.text


def test_what_was_checked_is_not_checked_again(lab, monkeypatch):
    lab.add()
    monkeypatch.setattr("zoo.system.ed25519.is_signed", None)
    monkeypatch.setattr("zoo.formats.signature.is_signed", None)
    assert lab.versions() == [1]


# --- TUF's attacks ----------------------------------------------------------------------------------------------------


def test_arbitrary_catalogue_attack(lab, caplog, bundles):
    """Other bytes in registry.yaml, under the signature that is there."""
    lab.add()
    lab.serves({"registry.yaml": lab.files()["registry.yaml"].replace(b"Doubles", b"Trebles")})
    refused(lab, caplog, "its catalogue does not have the size and SHA-256 that", [1])


def test_every_flipped_byte_of_a_signature_is_refused_or_changes_nothing(lab, caplog):
    lab.add()
    lab.publish(2)
    good = lab.files()["registry.sig"]
    for at in range(0, len(good), 7):
        lab.serves({"registry.sig": good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]})
        try:
            data, now = signed.read(catalogue.added()["lab"], catalogue.signature("lab", catalogue.added()["lab"]))
        except (IntegrityError, InvalidFileError):
            continue
        assert data == lab.files()["registry.yaml"] and now.serial == 2  # a space of the JSON


def test_rollback_attack(lab, caplog):
    old = lab.files()
    lab.add()
    lab.publish(2)
    assert lab.versions() == [1, 2]
    lab.serves(old)
    refused(lab, caplog, "its serial is 1, and was 2: an older catalogue", [1, 2])


def test_rollback_is_not_what_allow_rollback_accepts(lab, caplog):
    old = lab.files()
    lab.add()
    lab.publish(2)
    lab.versions()
    lab.serves(old)
    (found,) = (r for r in catalogue.registries(refresh=True, allow_rollback=True) if r.name == "lab")
    assert sorted(found.document.models["tiny"].versions) == [1, 2] and "an older catalogue" in caplog.text


def test_freeze_attack(lab, caplog, clock):
    """The same catalogue for ever: it is used, with a line, once it has expired."""
    lab.add()
    frozen = lab.files()
    lab.publish(2)
    lab.serves(frozen)
    caplog.clear()
    assert lab.versions() == [1] and caplog.messages == []
    clock[0] += 91 * DAY
    refused(lab, caplog, "its signature expired on 2027-04-15", [1])


def test_an_expired_catalogue_that_is_new_is_refused(lab, caplog, clock):
    lab.add()
    lab.publish(2)
    clock[0] += 91 * DAY
    refused(lab, caplog, "its signature expired on 2027-04-15 (it is 2027-04-16)", [1])
    with pytest.raises(IntegrityError, match="expired on"):
        lab.add(0, name="other")
    lab.sign()
    assert lab.versions() == [1, 2]


def test_fast_forward_attack(lab, caplog, monkeypatch):
    """A serial so high that no later one would be accepted."""
    lab.add()
    old = lab.files()
    statement = signatures.parse(old["registry.sig"], "x").statements[0]
    document = json.loads(statement.statement.removeprefix(TAG)) | {"serial": 2**53}
    forged = Signed(statement=TAG + json.dumps(document).encode()).signed_by(lab.keys[0])
    lab.serves({"registry.sig": Signature(format=1, statements=(forged,)).encode()})
    refused(lab, caplog, f"its serial leaps from 1 to {2**53}, by more than 1,000,000", [1])


def test_mix_and_match_attack_with_files_of_two_times(lab, caplog):
    old = lab.files()
    lab.add()
    lab.publish(2)
    lab.serves({"registry.yaml": old["registry.yaml"]})
    refused(lab, caplog, "its catalogue does not have the size and SHA-256 that", [1])


def test_mix_and_match_attack_with_another_registry_of_the_same_keys(lab, caplog, tmp_path, bundles):
    lab.add()
    other = tiny.registry(tmp_path / "nightly", bundles[2])
    for _ in range(3):
        sign(other, lab.keys[:1], Change(name="nightly"))
    lab.serves({name: (other / name).read_bytes() for name in ("registry.yaml", "registry.sig")})
    refused(lab, caplog, "it is the registry 'nightly', and was 'lab'", [1])


def test_key_compromise_under_the_threshold(lab, caplog, keys):
    """Two of three keys must sign; whoever has one can neither sign nor change the keys."""
    lab.sign(0, 1, trust=(0, 1, 2), threshold=2)
    lab.add()
    lab.publish(2, 1, 2)
    assert lab.versions() == [1, 2]
    good = lab.files()
    chain = signatures.parse(good["registry.sig"], "x").statements
    document = json.loads(chain[-1].statement.removeprefix(TAG)) | {"serial": 9}
    for change, reason in (
        ({}, "serial 9: of the known keys, 1 signed validly, and 2 must"),
        ({"threshold": 1}, "serial 9: of the known keys, 1 signed validly, and 2 must"),
        ({"keys": [keys[0].public, keys[3].public]}, "serial 9: of the known keys, 1 signed validly, and 2 must"),
        ({"keys": [keys[0].public] * 2}, "has a key twice"),
    ):
        forged = Signed(statement=TAG + json.dumps(document | change).encode())
        forged = forged.signed_by(keys[0]).signed_by(keys[3])
        lab.serves({"registry.sig": Signature(format=1, statements=(*chain[:-1], forged)).encode()})
        refused(lab, caplog, reason, [1, 2])


def test_strip_attack(lab, caplog):
    lab.add()
    (lab.folder / "registry.sig").unlink()
    refused(lab, caplog, "it was signed, and is not any more", [1])


@pytest.mark.parametrize("lab", ["server"], indirect=True)
def test_endless_data_attack(lab, caplog):
    """What a server sends for ever is left after the last byte that may be."""
    lab.add()
    good = lab.files()
    lab.server.content = good | {"registry.sig": b" " * (signatures.MOST_BYTES + 9)}
    refused(lab, caplog, "registry.sig has more than the allowed 524,288 bytes", [1])
    lab.server.content = good | {"registry.yaml": b"#" * (2 << 20)}
    refused(lab, caplog, "registry.yaml has more than the allowed 1,048,576 bytes", [1])
    with pytest.raises(TransportError):
        catalogue.registries([lab.server.url(behaviour="endless")])
    assert max(request.sent for request in lab.server.requests) < 32 << 20


def test_wrong_target_attack(lab, home):
    """The catalogue is right, and a file of a model is another one, or that of another version."""
    lab.add()
    lab.publish(2)
    models = lab.folder / "models" / "tiny"
    for name in ("model.yaml", "model.safetensors"):
        good = (models / "2" / name).read_bytes()
        shutil.copyfile(models / "1" / name, models / "2" / name)
        entry = registries.resolve(Reference("tiny", "lab", 2), catalogue.registries(refresh=True))
        with pytest.raises((IntegrityError, TransportError)):
            Store().pull(entry)
        assert Store().installed() == []
        (models / "2" / name).write_bytes(good)
    Store().pull(entry)


# --- Serials and names ------------------------------------------------------------------------------------------------


def test_two_catalogues_with_one_serial_are_refused(lab, caplog, tmp_path):
    """A thief of the key, or a publisher who restored a copy: nobody can say which one is right."""
    old = lab.files()
    lab.publish(2)
    lab.add()
    lab.serves(old)
    lab.publish(3)
    refused(lab, caplog, "there are two catalogues with the serial 2", [1, 2])


def test_a_second_registry_of_one_name_with_other_keys_is_refused(lab, tmp_path, bundles):
    lab.add()
    other = tiny.registry(tmp_path / "other", bundles[1])
    sign(other, [lab.keys[4]], Change(name="lab"))
    with pytest.raises(IntegrityError, match="it calls itself 'lab', as the registry 'lab' does, which has other keys"):
        catalogue.add("second", str(other))
    with pytest.raises(UsageError, match="there is already a registry 'lab'"):
        catalogue.add("lab", str(other), keys=[lab.keys[4].public])
    assert set(catalogue.added()) == {"lab"} and lab.versions() == [1]
    mirror = shutil.copytree(lab.folder, tmp_path / "mirror")
    catalogue.add("mirror", str(mirror))


# --- Rotation ---------------------------------------------------------------------------------------------------------


def test_an_old_client_walks_to_the_newest_keys(lab, caplog, keys):
    lab.add()
    caplog.clear()
    for old, new in ((0, 1), (1, 2), (2, 3)):
        lab.sign(old, new, trust=(new,))
        lab.sign(new)  # renewed, which is left out of the chain
    assert len(signatures.parse(lab.files()["registry.sig"], "x").statements) == 5
    assert lab.versions() == [1]
    assert caplog.messages == [f"the registry 'lab' has new keys, which the old ones have signed: {keys[3].public}"]
    lab.publish(2, 3)
    assert lab.versions() == [1, 2]
    assert lab.versions() == [1, 2]


@pytest.mark.parametrize("given", [0, 1, 2])
def test_a_key_of_any_time_leads_to_the_newest_ones(lab, keys, given):
    lab.sign(0, 1, trust=(1,))
    lab.sign(1, 2, trust=(2,))
    lab.add(given)
    known = catalogue.signature("lab", catalogue.added()["lab"])
    assert known.keys == (keys[2].public,) and known.serial == 3


def test_a_rotation_waits_for_the_old_and_the_new_keys(lab, keys):
    before = lab.files()
    for first, second in ((0, 1), (1, 0)):
        done = lab.sign(first, trust=(1,))
        assert (done.missing, done.of) == (1, (keys[second].public,)) and done.file == part_in(lab.folder)
        assert lab.files() == before
        assert lab.sign(second, trust=(1,)).missing == 0 and not part_in(lab.folder).exists()
        lab.serves(before)


def test_nobody_signs_for_other_keys_unseen(lab, keys):
    """A statement that waits is only signed by whoever asks for the same keys."""
    lab.sign(0, 1, trust=(0, 1), threshold=2)
    lab.sign(0, trust=(0, 4), threshold=1)  # by a thief of the first key
    done = lab.sign(1)
    assert done.statement.keys == (keys[0].public, keys[1].public) and done.missing == 1


@pytest.mark.parametrize("signers", [(0,), (1,), (4,)], ids=["old key only", "new key only", "a stranger's"])
def test_a_rotation_that_old_or_new_keys_did_not_sign_is_refused(lab, caplog, keys, signers):
    lab.add()
    chain = signatures.parse(lab.files()["registry.sig"], "x").statements
    document = json.loads(chain[0].statement.removeprefix(TAG)) | {"serial": 2, "keys": [keys[1].public]}
    forged = Signed(statement=TAG + json.dumps(document).encode())
    for n in signers:
        forged = forged.signed_by(keys[n])
    lab.serves({"registry.sig": Signature(format=1, statements=(*chain, forged)).encode()})
    whose = "its own" if signers == (0,) else "the known"
    refused(lab, caplog, f"serial 2: of {whose} keys, 0 signed validly, and 1 must", [1])


def test_a_key_that_was_replaced_signs_nothing_any_more(lab, caplog, keys):
    lab.sign(0, 1, trust=(1,))
    lab.add()
    chain = signatures.parse(lab.files()["registry.sig"], "x").statements
    document = json.loads(chain[0].statement.removeprefix(TAG)) | {"serial": 3}
    forged = Signed(statement=TAG + json.dumps(document).encode()).signed_by(keys[0])
    for forgery in ((forged,), (*chain, forged), (chain[0], forged)):
        lab.serves({"registry.sig": Signature(format=1, statements=forgery).encode()})
        refused(lab, caplog, "serial 3: of the known keys, 0 signed validly", [1])


def test_two_of_three_keys_sign_in_turn(lab):
    lab.sign(0, 1, trust=(0, 1, 2), threshold=2)
    lab.add()
    lab.publish(2, 0)
    assert part_in(lab.folder).exists()
    assert lab.sign(2).missing == 0 and not part_in(lab.folder).exists()
    assert lab.versions() == [1, 2]


# --- Clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_set_back_by_ten_years_makes_nothing_valid(lab, caplog, clock):
    lab.add()
    lab.publish(2)
    clock[0] += 80 * DAY
    assert lab.versions() == [1, 2]
    clock[0] -= 3650 * DAY
    caplog.clear()
    assert lab.versions() == [1, 2]
    (line,) = caplog.messages
    assert line.startswith("this machine's clock says 2017-04-07, but the registry 'lab' was read on 2027-04-05")
    lab.sign(days=1)  # on the publisher's machine, at that time
    caplog.clear()
    lab.versions()
    assert "its signature expired on 2017-04-08 (it is 2027-04-05)" in caplog.text


def test_a_clock_set_back_by_ten_years_is_noticed_at_the_first_use(lab, clock):
    clock[0] -= 3650 * DAY
    with pytest.raises(IntegrityError, match="more than 366 days from 2017-01-17: is this machine's clock right"):
        lab.add()
    assert catalogue.added() == {}


def test_a_kept_copy_past_its_expiry_warns_and_pulled_models_run(lab, caplog, clock, tmp_path):
    from zoo.store.locate import locate

    lab.add()
    Store().pull(registries.resolve(Reference("tiny", "lab"), catalogue.registries()))
    clock[0] += 91 * DAY
    if lab.server:
        lab.server.http.shutdown()
    caplog.clear()
    assert locate("lab/tiny").reference == "lab/tiny:1"
    assert "expired on 2027-04-15" in caplog.text and len(caplog.messages) == 1


# --- Files ------------------------------------------------------------------------------------------------------------


NO_SIGNATURES = [
    b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"<!doctype html><title>Sign in</title>",
    b'{"format": 2, "statements": []}', b'{"format": 1, "statements": []}',
    b'{"format": 1, "statements": [{"statement": "eA=="}]}',
]  # fmt: skip


@pytest.mark.parametrize("data", NO_SIGNATURES)
def test_what_is_not_a_signature_is_one_line(lab, data, caplog):
    lab.serves({"registry.sig": data})
    with pytest.raises(InvalidFileError) as e:
        lab.add()
    assert str(e.value).isprintable() and "registry.sig" in str(e.value) and len(str(e.value)) < 700


def test_a_damaged_memory_of_keys_is_not_an_empty_one(lab, home, caplog):
    lab.add()
    (known,) = home.rglob("*.signed.json")
    for damage in (b"", b"{", known.read_bytes().replace(b'"threshold":1', b'"threshold":0')):
        known.write_bytes(damage)
        caplog.clear()
        assert [r.name for r in catalogue.registries(refresh=True)] == ["default"]
        assert "the keys of a registry, cannot be read" in caplog.text and len(caplog.messages) == 1
    with pytest.raises(StoreError, match="remove the registry and add it again"):
        lab.add()
    catalogue.remove("lab")
    lab.add(0)
    assert lab.versions() == [1]


def test_another_process_that_saw_something_newer_is_not_overruled(lab, home):
    lab.add()
    (path,) = home.rglob("*.signed.json")
    older = signed.known(path)
    lab.publish(2)
    lab.versions()
    assert not signed.keep(older, path) and signed.known(path).serial == 2


def test_publishing_into_a_signed_registry_needs_its_key(lab, keys):
    before = lab.files()
    with pytest.raises(UsageError, match="is signed as 'lab', and clients refuse it unsigned; give --sign"):
        publish(lab.bundles[1], lab.folder)
    with pytest.raises(UsageError, match=f"{keys[1].public} is not a key of 'lab'"):
        lab.publish(2, 1)
    assert lab.files() == before and not (lab.folder / "models" / "tiny" / "2").exists()
    (lab.folder / "registry.sig").unlink()
    with pytest.raises(UsageError, match="is not signed yet; `zoo registry sign`"):
        lab.publish(2)
    assert not (lab.folder / "models" / "tiny" / "2").exists()


def test_publishing_the_same_again_signs_nothing_new(lab):
    before = lab.files()
    lab.publish(1)
    assert lab.files() == before


def test_a_publisher_that_was_killed_before_it_signed_signs_the_next_time(lab, caplog):
    lab.add()
    lab.publish(2)
    after = lab.files()
    lab.sign()
    lab.serves({"registry.sig": b""})
    with pytest.raises(InvalidFileError):
        lab.publish(2)
    lab.serves(after)
    before_sign = lab.files()["registry.sig"]
    lab.publish(3)
    lab.serves({"registry.sig": before_sign})
    lab.publish(3)
    assert lab.versions() == [1, 2, 3]


def test_signing_needs_a_name_and_keeps_it(tmp_path, bundles, keys):
    folder = tiny.registry(tmp_path / "r", bundles[0])
    with pytest.raises(UsageError, match="the first signature of a registry needs --name"):
        sign(folder, keys[:1])
    sign(folder, keys[:1], Change(name="lab"))
    with pytest.raises(UsageError, match="it is signed as 'lab', which cannot change"):
        sign(folder, keys[:1], Change(name="other"))
    with pytest.raises(UsageError, match="is not a key of 'lab'; --trust makes it one"):
        sign(folder, keys[1:2])
    with pytest.raises(UsageError, match="3 of 1 keys cannot sign"):
        sign(folder, keys[:1], Change(threshold=3))


def test_key_files(tmp_path, keys):
    file = tmp_path / "lab.key"
    file.write_bytes(keys[0].encode())
    file.chmod(0o600)
    assert SigningKey.read(file).public == keys[0].public
    for mode in (0o640, 0o604, 0o666):
        file.chmod(mode)
        with pytest.raises(InvalidFileError, match=r"others may read or write \(mode 0\d\d\); run: chmod 600"):
            SigningKey.read(file)


def test_what_is_not_a_private_key_is_one_line(tmp_path):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    own, other = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    pem, pkcs8, none = s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()
    for data, reason in {
        b"": "is not a private key in PEM",
        b"\xff" * 90_000: "is not a private key in PEM",
        f"ed25519:{'0' * 64}\n".encode(): "contains a public key; signing needs the private one",
        other.private_bytes(pem, pkcs8, none): "is not an Ed25519 key",
        own.private_bytes(pem, pkcs8, s.BestAvailableEncryption(b"x")): "has a passphrase",
        own.private_bytes(pem, s.PrivateFormat.OpenSSH, none): "is not a private key in PEM",
        own.public_key().public_bytes(pem, s.PublicFormat.SubjectPublicKeyInfo): "is not a private key in PEM",
    }.items():
        file = tmp_path / "key"
        file.write_bytes(data)
        file.chmod(0o600)
        with pytest.raises(InvalidFileError, match=reason):
            SigningKey.read(file)


@pytest.mark.parametrize(
    "text", ["", "ed25519:", "ed25519:" + "0" * 63, "0" * 64, "rsa:" + "0" * 64, "ed25519:\x1b[31m"]
)
def test_what_is_not_a_public_key_is_one_line(text):
    with pytest.raises(UsageError, match="is not a public key; it is ed25519: and 64 hexadecimal digits") as e:
        parse_key(text)
    assert str(e.value).isprintable()
