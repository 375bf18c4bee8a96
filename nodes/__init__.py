"""The nodes: thin wrappers that translate between ComfyUI's sockets and the core."""

from comfy_api.latest import ComfyExtension, io

from ..detex.host.paths import register_folder
from ..detex.host.routes import register_routes
from ..detex.host.sam import register_sam_folder
from .attention import AttentionPreview, CaptureAttention
from .best_step import BestStep
from .compose import ComposePrompt
from .concept import ApplyEmbeddings, LoadEmbeddings, SaveEmbeddings
from .demo import DemoModel, DemoSet, DemoSubject
from .dis2booth import Dis2BoothTrain
from .disendiff import DisenDiffTrain
from .draw import DrawIndividuals
from .evaluate import CompareConcepts, EvaluateConcept
from .folder import LoadSubjectFolder
from .grid import LabelledGrid, PromptGrid
from .merge import MergeConcepts
from .one_photo import ConceptsInOnePhoto
from .places import PlacePictures
from .preset import TrainingPreset
from .prior import ClassPriorImages
from .sam import SubjectMask
from .subject import SubjectImages
from .train import Train
from .varied import VariedImages


class DetexExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folder()
        register_sam_folder()
        register_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            DemoModel,
            DemoSubject,
            DemoSet,
            LoadSubjectFolder,
            SubjectMask,
            SubjectImages,
            ConceptsInOnePhoto,
            VariedImages,
            ClassPriorImages,
            PlacePictures,
            TrainingPreset,
            Train,
            DisenDiffTrain,
            Dis2BoothTrain,
            DrawIndividuals,
            SaveEmbeddings,
            LoadEmbeddings,
            ApplyEmbeddings,
            ComposePrompt,
            PromptGrid,
            LabelledGrid,
            MergeConcepts,
            CaptureAttention,
            AttentionPreview,
            EvaluateConcept,
            CompareConcepts,
            BestStep,
        ]


async def comfy_entrypoint() -> DetexExtension:
    return DetexExtension()
