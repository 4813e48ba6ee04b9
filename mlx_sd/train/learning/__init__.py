"""How a network learns: the loss, what is learned beside or in it, one step, and the settings of a training."""
