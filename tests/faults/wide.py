"""The sports catalogue where many more leagues are similar, for a process of its own."""

from __future__ import annotations

from altsports import catalogue as sports
from altsync import Catalogue, Relationships, Seeds, Similar

# The tables are made once in a process; what is declared of them is read by each catalogue.
sports.League.similar = Similar("SIMILAR_TO", within="sport_archetype", enter=0.6, leave=0.5, top=5)

catalogue = Catalogue(
    "wide",
    entities=[sports.SportArchetype, sports.League, sports.FewShotExample],
    attachments=[sports.Document, sports.Contract],
    relationships=[
        Relationships(
            sports.League, "COMPETES_WITH", "SAME_ARCHETYPE", seeds=Seeds("relationships")
        )
    ],
)
