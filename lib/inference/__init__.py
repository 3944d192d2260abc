"""A slice network asked about a study: matching, voting, probabilities, interaction, templates."""
