"""The study that the tests of this folder carry out."""

from __future__ import annotations

CONTENT = {
    "name": "small",
    "description": "Two methods on two environments.",
    "factors": {
        "env": ["point_robot", "sparse_point_robot"],
        "method": ["ctmrl", "focal"],
        "seed": [0, 1, 2],
    },
    "protocols": ["np", "offline"],
    "report": {"paper": "methods", "splits": ["test", "train"]},
}
