"""Models that others can fetch: a card under the model's name says what it is, and which blob its bytes are."""
