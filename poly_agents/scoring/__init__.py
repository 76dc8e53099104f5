"""States -> scores: the contract of a ranker, and the formulas that rankers share."""
