"""The MuJoCo families: models, formulas, batched simulation and environments."""
