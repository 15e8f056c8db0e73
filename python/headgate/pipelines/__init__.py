"""Four ready-made pipelines, built on the engine as a user would build a fifth."""
