"""m-SAM in one pair of passes: every group's own perturbation at once, exactly.

A layer's output is linear in its parameters, y = L(x) theta. So the gradient of group j is
L(A_j)^T b_j, with the layer's inputs A_j and output gradients b_j of that group; and to move theta
by e_j = c_j g_j adds L(X_j) e_j to the group's outputs. Two passes over the batch are enough:

1. Forward and backward to the layers' *outputs*: A, b, hence n_j = ||g_j|| and c_j = rho / n_j.
2. Forward with L(X_j) e_j added to every layer's output, and an ordinary backward. Taps are
   constants there, so `.grad` gets the mean over the groups of the gradients at w + e_j.

The weights are never modified. `tape` carries out the passes, one file per kind of layer knows L,
`forms` holds gradients of groups, `coverage` proves that nothing was missed.
"""
