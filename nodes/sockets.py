"""The sockets of this pack."""

from comfy_api.latest import io

CATEGORY = "DETEX"

SubjectSocket = io.Custom("DETEX_SUBJECT")
PhotoSocket = io.Custom("DETEX_PHOTO")
ConceptSocket = io.Custom("DETEX_CONCEPT")
AttentionSocket = io.Custom("DETEX_ATTENTION")
PlacesSocket = io.Custom("DETEX_PLACES")
EvaluationSocket = io.Custom("DETEX_EVALUATION")
VariedSocket = io.Custom("DETEX_VARIED_IMAGES")
DistributionSocket = io.Custom("DETEX_DISTRIBUTION")
