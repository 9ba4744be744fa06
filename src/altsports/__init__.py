"""The sports catalogue: leagues, their archetypes, few-shot examples, and questions about them."""
