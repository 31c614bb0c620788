"""How fast a training iteration is, part by part, and how fast this machine could be."""
