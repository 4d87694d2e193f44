"""The meter for any `nn.Module`: what each layer sees, what theory expects of it, and what is measured."""
