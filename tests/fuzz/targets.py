"""What hostile bytes are fed to. A target returns how the input was answered, and raises only where the product is wrong."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
import zstandard

from app.errors import ProblemError
from app.services.unpacking import DECODERS, unpack
from models.bundle import BundleManifest, load_bundle, manifest_hash, save_bundle
from models.config import GRUConfig
from models.errors import BundleError
from models.registry import build_forecaster
from training.checkpoint import read_checkpoint
from training.config import DataConfig, TrainingConfig, build_config, load_config
from training.data.audit import audit_file
from training.data.panel import load_panel
from training.errors import CheckpointError, ConfigurationError, DataError

Target = Callable[[bytes], str]
ENDINGS = (".csv", ".csv", ".csv.gz", ".parquet", ".tsf")


class CrashError(AssertionError):
    """An answer that no input may get."""


class ReaderTarget:
    """First byte: ending of the file; the rest is its content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data: bytes) -> str:
        path = self._folder / f"input{ENDINGS[data[0] % len(ENDINGS)] if data else '.csv'}"
        path.write_bytes(data[1:])
        config = DataConfig(path=str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            audit = audit_file(path, config)
            audit.to_text()
            try:
                load_panel(config)
            except DataError as error:
                if audit.is_usable:
                    raise CrashError("the audit calls usable what the reader refuses") from error
                return " ".join(sorted({problem.code for problem in error.problems}))
        return "loaded"


class ConfigTarget:
    """A YAML file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "config.yaml"

    def __call__(self, data: bytes) -> str:
        self._path.write_bytes(data)
        try:
            config = load_config(self._path)
        except ConfigurationError as error:
            str(error)
            return f"refused {min(len(error.problems), 6)}"
        again = build_config(config.model_dump(by_alias=True))
        if not isinstance(again, TrainingConfig) or again.to_yaml() != config.to_yaml():
            raise CrashError("a configuration that was read is not what it writes")
        return "valid"


class BundleTarget:
    """A bundle by somebody who knows the format: first byte names the file that the rest replaces; the hashes are made right."""

    FILES = ("bundle.json", "weights.safetensors", "golden.json")

    def __init__(self, folder: Path) -> None:
        self._original, self._victim = folder / "original", folder / "victim"
        config = GRUConfig(context_length=6, horizon=2, hidden_size=3)
        save_bundle(self._original, build_forecaster(config), BundleManifest(network=config, freq="h", season_length=4))
        shutil.copytree(self._original, self._victim)
        self._contents = {name: (self._original / name).read_bytes() for name in self.FILES}

    def seeds(self) -> list[bytes]:
        """Every file as it is."""
        return [bytes([index]) + (self._original / name).read_bytes() for index, name in enumerate(self.FILES)]

    def __call__(self, data: bytes) -> str:
        name = self.FILES[data[0] % len(self.FILES)] if data else self.FILES[0]
        (self._victim / name).write_bytes(data[1:])
        self._make_hashes_right(name, data[1:])
        try:
            load_bundle(self._victim)
        except BundleError as error:
            return error.where.rpartition("/")[2][:40] + error.contract[:24]
        finally:
            (self._victim / name).write_bytes(self._contents[name])
        return "loaded"

    def _make_hashes_right(self, changed: str, content: bytes) -> None:
        path = self._victim / "bundle.json"
        try:
            document = json.loads(content if changed == "bundle.json" else self._contents["bundle.json"])
            contents = self._contents | {changed: content}
            document["sha256"] = {name: hashlib.sha256(contents[name]).hexdigest() for name in self.FILES[1:]}
            document["manifest_sha256"] = manifest_hash(document)
            path.write_text(json.dumps(document))
        except (ValueError, TypeError, RecursionError):
            return


class PackedBodyTarget:
    """A compressed request body: first byte names the encoding; it unpacks to at most the limit, or is refused."""

    MAX_BYTES = 1 << 20

    def __call__(self, data: bytes) -> str:
        encoding = sorted(DECODERS)[(data[0] if data else 0) % len(DECODERS)]
        try:
            content = unpack(data[1:], encoding, self.MAX_BYTES)
        except ProblemError as error:
            return f"{encoding} {error.code}"
        if len(content) > self.MAX_BYTES:
            raise CrashError(f"unpacked to {len(content)} bytes")
        return f"{encoding} {len(content).bit_length()}"

    @staticmethod
    def seeds() -> list[bytes]:
        """Both encodings, one frame and several, small and beyond the limit."""
        packs: list[Callable[[bytes], bytes]] = [gzip.compress, zstandard.ZstdCompressor().compress]
        contents = (b"", b'{"model": "plain"}', b"0" * (2 << 20))
        whole = [(index, pack(content)) for index, pack in enumerate(packs) for content in contents]
        return [bytes([index]) + packed * count for index, packed in whole for count in (1, 3)]


class CheckpointTarget:
    """The file that a training resumes from: up to a line feed its header, whose length is made right; the rest is tensors."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "last.safetensors"

    def __call__(self, data: bytes) -> str:
        header, _, tensors = data.partition(b"\n")
        self._path.write_bytes(len(header).to_bytes(8, "little") + header + tensors)
        try:
            read_checkpoint(self._path)
        except CheckpointError as error:
            return str(error).rpartition("but is")[2][:24]
        return "loaded"

    @staticmethod
    def seeds() -> list[bytes]:
        """A file as a training writes it."""
        tensors = {"network.weight": torch.ones(2, 3), "optimizer.0.step": torch.tensor(3.0)}
        content = safetensors.torch.save(tensors, metadata={"gradcast": '{"step": 3, "losses": [1.0, Infinity]}'})
        end = 8 + int.from_bytes(content[:8], "little")
        return [content[8:end] + b"\n" + content[end:]]
