"""A slice network on a whole study: matching, voting, probabilities, interaction, templates."""
