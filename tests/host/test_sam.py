"""Subject Mask (SAM), on a small real Sam where segment-anything is installed."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from torch import Tensor

from detex_pack.detex.host import sam
from detex_pack.nodes.sam import SubjectMask

INSTALLED = importlib.util.find_spec("segment_anything") is not None
needs_package = pytest.mark.skipif(not INSTALLED, reason="needs the package segment-anything")
SIDE = 64  # pixels of the small Sam's picture


@pytest.fixture(scope="module")
def small_sam():
    modeling = pytest.importorskip("segment_anything.modeling")
    width, grid = 16, SIDE // 16
    torch.manual_seed(0)
    return modeling.Sam(
        modeling.ImageEncoderViT(
            img_size=SIDE, embed_dim=32, depth=2, num_heads=2, out_chans=width, window_size=2
        ),
        modeling.PromptEncoder(width, (grid, grid), (SIDE, SIDE), mask_in_chans=4),
        modeling.MaskDecoder(
            transformer_dim=width,
            transformer=modeling.TwoWayTransformer(
                depth=1, embedding_dim=width, num_heads=2, mlp_dim=32
            ),
            iou_head_hidden_dim=16,
        ),
    ).eval()


Segment = Callable[..., tuple[list[Tensor], Tensor]]


@pytest.fixture(scope="module")
def segment(small_sam) -> Segment:
    """The node as ComfyUI calls it: every input a list."""

    def run(photos: list[Tensor], model=small_sam, choice="", points="", box=""):
        batches = [photo[None] for photo in photos]
        lists = [[sam.NONE_FOUND], [choice], [points], [box], [model] if model else None]
        return SubjectMask.execute(batches, *lists).args

    return run


@needs_package
def test_every_photo_gets_a_mask_of_its_size(segment: Segment, photos: list[Tensor]):
    masks, candidates = segment(photos)
    assert [tuple(m.shape) for m in masks] == [(1, *p.shape[:2]) for p in photos]
    assert all(set(m.unique().tolist()) <= {0.0, 1.0} and m.any() for m in masks)
    assert candidates.shape[0] == 1 and candidates.shape[3] == 3


@needs_package
def test_typed_number_takes_another_candidate_of_that_photo_alone(
    segment: Segment, photos: list[Tensor]
):
    automatic, _ = segment(photos)
    changed, _ = segment(photos, choice="2:2")
    assert torch.equal(automatic[0], changed[0]) and torch.equal(automatic[2], changed[2])
    assert not torch.equal(automatic[1], changed[1])


@needs_package
def test_points_and_boxes_are_tried_on_their_photo_alone(segment: Segment, photos: list[Tensor]):
    automatic, _ = segment(photos, choice="1:1")
    pointed, _ = segment(photos, points="2: 8,8 !20,20", box="2: 2,2,20,20")
    assert torch.equal(automatic[0], pointed[0])
    boxed, _ = segment(photos, box="2: 2,2,20,20")
    assert boxed[1].shape == pointed[1].shape


@needs_package
def test_wrong_choice_is_told_before_the_long_run(
    segment: Segment, photos: list[Tensor], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sam, "photo_candidates", lambda *_: pytest.fail("the long run"))
    with pytest.raises(ValueError, match="choice names photo 9"):
        segment(photos, choice="9:1")


@needs_package
def test_photo_without_any_candidate_is_refused_by_number(
    segment: Segment, photos: list[Tensor], monkeypatch: pytest.MonkeyPatch
):
    find = sam.photo_candidates
    monkeypatch.setattr(
        sam,
        "photo_candidates",
        lambda m, p, *_: [] if p.shape == photos[1].shape else find(m, p, [], None),
    )
    with pytest.raises(ValueError, match='Nothing was found on photo 2. Give a point .* "2: 340,2'):
        segment(photos)


@needs_package
def test_model_goes_back_to_its_device_after_a_cancel(
    segment: Segment, small_sam, photos: list[Tensor], monkeypatch: pytest.MonkeyPatch
):
    visited = []
    monkeypatch.setattr(small_sam, "to", visited.append, raising=False)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        segment(photos)
    assert visited == [comfy.model_management.get_torch_device(), torch.device("cpu")]


@needs_package
def test_model_of_another_kind_is_refused_by_its_name(segment: Segment, photos: list[Tensor]):
    with pytest.raises(ValueError, match="SAM_MODEL wired here is a Linear, which this node does"):
        segment(photos, model=torch.nn.Linear(1, 1))


@needs_package
def test_sam_hq_is_refused(segment: Segment, small_sam, photos, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(small_sam.mask_decoder, "hf_token", 1, raising=False)
    with pytest.raises(ValueError, match="it takes the first segment-anything"):
        segment(photos)


@needs_package
def test_no_checkpoint_says_which_to_fetch(segment: Segment, photos: list[Tensor]):
    with pytest.raises(ValueError, match="no SAM checkpoint in models/sams. Put sam_vit_b_01ec64"):
        segment(photos, model=None)


@pytest.fixture
def sams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    entry = ([str(tmp_path)], {".pth"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sams", entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@needs_package
@pytest.mark.slow
def test_checkpoint_is_loaded_by_the_size_of_its_weights(sams: Path):
    import segment_anything

    built = segment_anything.sam_model_registry["vit_b"]()
    torch.save(built.state_dict(), sams / "any_name.pth")
    assert sam.sam_files() == ["any_name.pth"]
    loaded = sam.load_sam("any_name.pth")
    assert torch.equal(loaded.image_encoder.pos_embed, built.image_encoder.pos_embed)


@needs_package
def test_file_that_is_no_sam_checkpoint_is_refused_by_name(sams: Path):
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 32)}, sams / "small.pth")
    torch.save({"weight": torch.zeros(1)}, sams / "other.pth")
    for name in ("small.pth", "other.pth"):
        with pytest.raises(ValueError, match=f"{name} is no segment-anything checkpoint"):
            sam.load_sam(name)


def test_without_the_package_the_message_installs_it_or_goes_around_it(
    photos: list[Tensor], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "segment_anything", None)  # as if it were not there
    lists = [["any.pth"], [""], [""], [""]]
    with pytest.raises(ImportError) as caught:
        SubjectMask.execute([photos[0][None]], *lists)
    message = str(caught.value)
    assert f'"{sys.executable}" -m pip install segment-anything' in message
    for way in ("Load Subject Folder", "SAM3 Detect", "MaskEditor"):
        assert way in message


def test_folder_of_another_pack_keeps_its_paths_and_endings(monkeypatch: pytest.MonkeyPatch):
    theirs = (["/elsewhere/sams"], {".onnx"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sams", theirs)
    sam.register_sam_folder()
    paths, endings = folder_paths.folder_names_and_paths["sams"]
    assert paths[0] == "/elsewhere/sams" and len(paths) == 2
    assert endings == {".onnx"}


def test_folder_is_made_known_where_no_pack_did(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(folder_paths.folder_names_and_paths, "sams", raising=False)
    sam.register_sam_folder()
    assert ".pth" in folder_paths.folder_names_and_paths["sams"][1]
