"""The models of runs, as their last evaluation brought them: the enterprise's own copy."""

from __future__ import annotations

import logging

from fgcif_flwr.data.encoding import feature_layout
from fgcif_flwr.enterprise.agent.runs import terms_hash
from fgcif_flwr.enterprise.segmentation_tasks import segmentation_in
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.federation.private_plan import plan_of
from fgcif_flwr.federation.releases import MODEL
from fgcif_flwr.federation.segmentation_releases import learns_segments
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.federation.terms import config_in
from fgcif_flwr.models.artifact import save_model
from fgcif_flwr.models.network import build_network, parameter_count
from fgcif_flwr.models.parameters import from_vector, load_arrays, named_arrays
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import Manifest

logger = logging.getLogger(__name__)


def keep_model(site: Site, manifest: Manifest, arrays: ArrayMap) -> None:
    """Write ``models/RUN.safetensors``; a failure is the log's matter, not the coordinator's.

    Parameters
    ----------
    arrays
        An evaluation's input, which was checked: the model's parameters, float32 (d,), and where
        the run learned segments their space and centres, which the file then holds too.
    """
    try:
        _keep(site, manifest, arrays)
    except Exception:  # the reply is out of the door already: it leaves whatever becomes of this
        logger.exception("the model of run %s was not kept", manifest.run.hex())


def _keep(site: Site, manifest: Manifest, arrays: ArrayMap) -> None:
    config = config_in(manifest.terms)
    features = feature_layout(site.schema)
    network = build_network(features, config.model, seed=0)
    load_arrays(network, from_vector(arrays[MODEL], named_arrays(network)))
    secure_sum = manifest.parameters(len(manifest.roster))
    plan = None
    if config.privacy.unit != "none":
        size = parameter_count(features, config.model)
        plan = plan_of(config, features, size, secure_sum.honest_in_any_sum)
    statement: dict[str, object] = {
        "run": manifest.run.hex(),
        "terms": terms_hash(manifest),
        "privacy": PrivacyStatement.of(plan, secure_sum).as_dict(),
    }
    if learns_segments(config):
        statement["segments"] = segmentation_in(arrays, config, features).as_dict()
    site.models_directory.mkdir(mode=0o700, exist_ok=True)
    path = site.models_directory / f"{manifest.run.hex()}.safetensors"
    save_model(path, network, site.schema, statement)
