"""Model download from the Hugging Face hub, limited to the files that the worker loads.

What was fetched is compared with the digests that the hub has of it. Also holds the licence notice
that must be shown first. Finding the files is layout.py's.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pipeline.checkpoint.layout import REVISIONS

REPOSITORY = "ali-vilab/i2vgen-xl"

SIZE = "5.0 GB"
"""Of the fp16 weights: 2.84 GB UNet, 1.26 image encoder, 0.71 text encoder, 0.17 VAE."""

LICENCE = f"""\
The weights of I2VGen-XL are not part of i2vd, and their licence is not clear:
  - the model's page on the hub (https://huggingface.co/ali-vilab/i2vgen-xl) is tagged MIT;
  - the README of its authors' code (https://github.com/ali-vilab/VGen) says that the models are
    for RESEARCH AND NON-COMMERCIAL USE ONLY.
Read both, and ask the authors before any commercial use. The download has {SIZE}."""

_PARTS = ("unet", "vae", "text_encoder", "image_encoder")
_SMALL = ("model_index.json", "*/*.json", "*/*.txt")


class DownloadFailed(Exception):
    """Failed download; the message gives the reason and the remedy."""


def pull(repo: str = REPOSITORY, revision: str | None = None, folder: Path | None = None) -> Path:
    """Download the configurations and fp16 safetensors of `repo` and return their folder.

    The default folder is the hub's cache, where the worker finds the model by its id. Existing
    files are kept, an interrupted download resumes, and stderr shows a progress bar. Without a
    revision, that of layout.REVISIONS is fetched. The caller must show LICENCE first. Raises
    DownloadFailed.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    weights = [f"{part}/*.fp16*.safetensors*" for part in _PARTS]
    chosen = revision or REVISIONS.get(repo)
    try:
        found = snapshot_download(
            repo, revision=chosen, local_dir=folder, allow_patterns=[*_SMALL, *weights]
        )
        published = (
            HfApi().model_info(repo, revision=chosen or "main", files_metadata=True).siblings
        )
    except GatedRepoError as error:
        raise DownloadFailed(f"{repo} wants a login: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise DownloadFailed(f"the hub has no {repo}") from error
    except Exception as error:  # the hub client's own errors, its HTTP library's, the system's
        raise DownloadFailed(
            f"{repo} could not be fetched, run it again to go on: {error}"
        ) from error
    if missing := [p for p in _PARTS if not any(Path(found, p).glob("*.fp16*.safetensors"))]:
        raise DownloadFailed(f"{repo} has no fp16 safetensors for {', '.join(missing)}")
    _check_content(Path(found), {s.rfilename: s.lfs.sha256 for s in published or [] if s.lfs})
    return Path(found)


def _check_content(folder: Path, digests: Mapping[str, str]) -> None:
    """Compare the files with their SHA-256. Removes a file that differs; raises DownloadFailed."""
    for name, sha256 in digests.items():
        file = folder / name
        if not file.is_file():
            continue
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != sha256:
            for each in {file.resolve(), file}:  # in the hub's cache it is a link
                each.unlink(missing_ok=True)
            raise DownloadFailed(
                f"{file} is damaged: its SHA-256 is not the hub's; it is removed, run it again"
            )
