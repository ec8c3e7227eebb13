"""Archives: what was damaged, what stays on a disc, and the note of a disc

Revision: 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('archive_task', schema=None) as batch_op:
        batch_op.add_column(sa.Column('members_damaged', sa.Integer(), nullable=False, server_default='0'))
        batch_op.add_column(sa.Column('members_left', sa.Integer(), nullable=False, server_default='0'))
        batch_op.add_column(sa.Column('sealed_note', sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('archive_task', schema=None) as batch_op:
        batch_op.drop_column('sealed_note')
        batch_op.drop_column('members_left')
        batch_op.drop_column('members_damaged')
