"""The sports catalogue: leagues, archetypes, few-shot examples, and queries about them."""
