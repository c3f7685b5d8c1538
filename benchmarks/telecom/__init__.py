"""Tickets of τ²-bench telecom: the world, the agent, and the arms."""
