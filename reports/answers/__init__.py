"""What a run comes to, in the words of a decision: the sentences, cards and steps that a report opens with."""
