"""Sharing by kind: labels of items, classes of files under keys over labels, delegations

Revision: 0007, after 0006
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('delegation',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('compartment_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('gid', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('wrapped_plan', sa.LargeBinary(), nullable=False),
    sa.Column('created_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
    sa.Column('ended_at', sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
    sa.ForeignKeyConstraint(['compartment_id'], ['compartment.id'], ),
    sa.ForeignKeyConstraint(['gid'], ['identity.gid'], ),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('delegation', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_delegation_compartment_id'), ['compartment_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_delegation_gid'), ['gid'], unique=False)

    op.create_table('delegation_key',
    sa.Column('delegation_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('sealed', sa.LargeBinary(), nullable=False),
    sa.Column('signature', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['delegation_id'], ['delegation.id'], ),
    sa.PrimaryKeyConstraint('delegation_id', 'epoch')
    )
    op.create_table('label_class',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('compartment_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('wrapped_labels', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['compartment_id'], ['compartment.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('label_class', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_label_class_compartment_id'), ['compartment_id'], unique=False)

    op.create_table('label_class_key',
    sa.Column('label_class_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('header', sa.LargeBinary(), nullable=False),
    sa.Column('signature', sa.LargeBinary(), nullable=False),
    sa.Column('wrapped_ck', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['label_class_id'], ['label_class.id'], ),
    sa.PrimaryKeyConstraint('label_class_id', 'epoch')
    )
    with op.batch_alter_table('item', schema=None) as batch_op:
        batch_op.add_column(sa.Column('wrapped_labels', sa.LargeBinary(), nullable=True))

    with op.batch_alter_table('item_wrap', schema=None) as batch_op:
        batch_op.add_column(sa.Column('label_class_id', sqlmodel.sql.sqltypes.AutoString(), nullable=True))
        batch_op.create_index(batch_op.f('ix_item_wrap_label_class_id'), ['label_class_id'], unique=False)


def downgrade() -> None:
    for table in ('item_wrap', 'rewrap_task', 'vm_session_share'):
        op.execute(f"DELETE FROM {table} WHERE compartment_id IN (SELECT id FROM compartment WHERE kind = 'labels')")
    with op.batch_alter_table('item_wrap', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_item_wrap_label_class_id'))
        batch_op.drop_column('label_class_id')

    with op.batch_alter_table('item', schema=None) as batch_op:
        batch_op.drop_column('wrapped_labels')

    op.drop_table('label_class_key')
    with op.batch_alter_table('label_class', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_label_class_compartment_id'))

    op.drop_table('label_class')
    op.drop_table('delegation_key')
    with op.batch_alter_table('delegation', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_delegation_gid'))
        batch_op.drop_index(batch_op.f('ix_delegation_compartment_id'))

    op.drop_table('delegation')
    op.execute("DELETE FROM compartment WHERE kind = 'labels'")
