"""The files of a training: the weights of the best epoch, the record and the state to resume from."""
