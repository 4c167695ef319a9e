"""Model download from the Hugging Face hub, limited to the files that the worker loads.

Also holds the licence notice that must be shown first. Finding the files is layout.py's.
"""

from pathlib import Path

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
    files are kept, an interrupted download resumes, and stderr shows a progress bar. The caller
    must show LICENCE first. Raises DownloadFailed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    weights = [f"{part}/*.fp16*.safetensors*" for part in _PARTS]
    try:
        found = snapshot_download(
            repo, revision=revision, local_dir=folder, allow_patterns=[*_SMALL, *weights]
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
    return Path(found)
