"""The run's configuration: one pydantic tree, three spellings.

The same names are used in TOML (``[training] learning_rate = 0.001``), on the command line
(``--set training.learning_rate=0.001``) and, flattened to dotted keys, in Flower's
``[tool.flwr.app.config]`` and ``flwr run -c``. Flower's configuration holds only strings,
integers, floats and booleans, so lists are written ``"64,32"`` there and an absent number is
the word ``"none"`` or ``"auto"``.
"""

from fgcif_flwr.config.reading import (
    Scalar,
    flatten,
    known_keys,
    parse_assignments,
    read_toml,
    unflatten,
)
from fgcif_flwr.config.sections import (
    DataSection,
    EvaluationSection,
    GeneratorSection,
    ModelSection,
    PrivacySection,
    RunConfig,
    RunSection,
    SecAggSection,
    SegmentationSection,
    SimulatorSection,
    TrainingSection,
)

__all__ = [
    "DataSection",
    "EvaluationSection",
    "GeneratorSection",
    "ModelSection",
    "PrivacySection",
    "RunConfig",
    "RunSection",
    "Scalar",
    "SecAggSection",
    "SegmentationSection",
    "SimulatorSection",
    "TrainingSection",
    "flatten",
    "known_keys",
    "parse_assignments",
    "read_toml",
    "unflatten",
]
