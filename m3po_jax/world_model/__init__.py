"""The latent model as the planner sees it, imagination, and the world-model losses."""
