"""Learning on ALFWorld's games: the agent, what it is told, and the arms."""
