"""Model-predictive path integral control in latent space, over any `LatentModel`."""
