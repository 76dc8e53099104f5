"""Evaluation without ParlAI: measures of a ranking, the file of ranks, and submissions to leaderboards."""
